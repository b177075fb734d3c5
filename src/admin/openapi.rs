//! The description of the API: OpenAPI 3.1, made from the endpoints and the types that they read and
//! write.

use std::sync::LazyLock;

use http::StatusCode;
use utoipa::ToSchema;
use utoipa::openapi::path::{PathItemBuilder, PathsBuilder};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder, SecurityRequirement, Server};

use super::answer::{Answer, of_text, written};
use super::input::{Nothing, Query};
use super::router::{TAGS, endpoints};
use super::settings::Surface;

const BEARER: &str = "bearer";

/// A description of an API.
#[derive(ToSchema)]
#[schema(as = OpenApi)]
#[expect(dead_code, reason = "says no more of the description than that it is an object")]
pub(super) struct Description {
    /// Its version.
    openapi: String,
}

/// The description of the whole API.
#[must_use]
pub fn document() -> OpenApi {
    let mut components = ComponentsBuilder::new().security_scheme(BEARER, scheme());
    let mut paths = PathsBuilder::new();
    for mut endpoint in endpoints(Surface::Whole) {
        let operation = endpoint.describe();
        components = components.schemas_from_iter(endpoint.schemas);
        let item = PathItemBuilder::new().operation(endpoint.method, operation).build();
        paths = paths.path(endpoint.path, item);
    }
    let mut license = License::new("MIT OR Apache-2.0");
    license.identifier = Some("MIT OR Apache-2.0".to_owned());
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Keyward management API")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Makes, finds, changes, replaces and ends the keys that a Keyward gateway lets through.",
                ))
                .license(Some(license)),
        )
        .servers(Some([Server::new("/")]))
        .paths(paths)
        .components(Some(components.build()))
        .security(Some([SecurityRequirement::new(BEARER, [""; 0])]))
        .tags(Some(TAGS.iter().map(|(name, what)| TagBuilder::new().name(*name).description(Some(*what)).build())))
        .build()
}

fn scheme() -> SecurityScheme {
    let mut scheme = Http::new(HttpAuthScheme::Bearer);
    scheme.description = Some("The token of an operator's key.".to_owned());
    SecurityScheme::Http(scheme)
}

/// Answers with the description.
pub(super) async fn show(Query(Nothing {}): Query<Nothing>) -> Answer {
    // Whoever asks needs no key, so it is written once.
    static TEXT: LazyLock<Vec<u8>> = LazyLock::new(|| written(&document()));
    Ok(of_text(StatusCode::OK, TEXT.clone()))
}
