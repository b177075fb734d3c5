//! One endpoint: what answers it, and its description. Both come from one place, so that neither can
//! say what the other does not.

use axum::handler::Handler;
use axum::routing::{self, MethodRouter};
use serde_json::Value;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{ContentBuilder, HeaderBuilder, Ref, RefOr, Required};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::handler::Parts;
use super::problem::{Code, Problem};
use crate::manage::{IDEMPOTENCY_KEY_MAX, IDEMPOTENCY_KEY_MIN};
use crate::wire::PROBLEM_JSON;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A schema and its name.
pub(super) type NamedSchema = (String, RefOr<Schema>);

/// What one method of one path does.
pub(super) struct Endpoint {
    pub(super) path: &'static str,
    pub(super) method: HttpMethod,
    pub(super) on: MethodRouter<Arc<Parts>>,
    pub(super) schemas: Vec<NamedSchema>,
    operation: OperationBuilder,
    answers: Vec<(u16, Response)>,
    refusals: Vec<Code>,
    is_open: bool,
    is_change: bool,
}

/// Reads at `path`.
pub(super) fn get<H: Handler<T, Arc<Parts>>, T: 'static>(path: &'static str, handler: H) -> Endpoint {
    Endpoint::new(path, HttpMethod::Get, routing::get(handler))
}

/// Makes something at `path`.
pub(super) fn post<H: Handler<T, Arc<Parts>>, T: 'static>(path: &'static str, handler: H) -> Endpoint {
    Endpoint::new(path, HttpMethod::Post, routing::post(handler)).changes()
}

/// Asks something at `path` that takes a body, and changes nothing.
pub(super) fn ask<H: Handler<T, Arc<Parts>>, T: 'static>(path: &'static str, handler: H) -> Endpoint {
    Endpoint::new(path, HttpMethod::Post, routing::post(handler))
}

/// Puts what `path` names.
pub(super) fn put<H: Handler<T, Arc<Parts>>, T: 'static>(path: &'static str, handler: H) -> Endpoint {
    Endpoint::new(path, HttpMethod::Put, routing::put(handler)).changes()
}

/// Changes what `path` names.
pub(super) fn patch<H: Handler<T, Arc<Parts>>, T: 'static>(path: &'static str, handler: H) -> Endpoint {
    Endpoint::new(path, HttpMethod::Patch, routing::patch(handler)).changes()
}

/// Ends what `path` names.
pub(super) fn delete<H: Handler<T, Arc<Parts>>, T: 'static>(path: &'static str, handler: H) -> Endpoint {
    Endpoint::new(path, HttpMethod::Delete, routing::delete(handler)).changes()
}

/// Forgets what `path` names, which is neither a key nor a user.
pub(super) fn forget<H: Handler<T, Arc<Parts>>, T: 'static>(path: &'static str, handler: H) -> Endpoint {
    Endpoint::new(path, HttpMethod::Delete, routing::delete(handler))
}

impl Endpoint {
    fn new(path: &'static str, method: HttpMethod, on: MethodRouter<Arc<Parts>>) -> Self {
        let mut operation = OperationBuilder::new();
        for name in path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}')) {
            let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path);
            let parameter = parameter.required(Required::True).schema(Some(in_path(path)));
            operation = operation.parameter(parameter);
        }
        let refusals = vec![
            Code::InvalidRequest,
            Code::MissingKey,
            Code::InvalidKey,
            Code::CallerNotLive,
            Code::LacksPermission,
            Code::OutOfScope,
            Code::UnknownField,
            Code::InvalidField,
            Code::TooManyFailures,
            Code::Internal,
            Code::StoreFailed,
        ];
        let schemas = Vec::new();
        Self { path, method, on, schemas, operation, answers: Vec::new(), refusals, is_open: false, is_change: false }
    }

    /// It changes something: what it answers comes with a revision, and may be waited for.
    fn changes(self) -> Self {
        let mut endpoint = self.asks::<super::input::Patience>();
        endpoint.refusals.extend([Code::MayNotGrant, Code::NoRandomness]);
        endpoint.is_change = true;
        endpoint
    }

    /// It is done once for each Idempotency-Key.
    pub(super) fn once(mut self) -> Self {
        let key = ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(IDEMPOTENCY_KEY_MIN))
            .max_length(Some(IDEMPOTENCY_KEY_MAX))
            .pattern(Some("^[!-~][ -~]*[!-~]$"));
        let what = "A secret of the caller's own for this request: whoever sends the same again gets the same answer, \
                    for 15 minutes where it holds a token.";
        let parameter = ParameterBuilder::new().name("Idempotency-Key").parameter_in(ParameterIn::Header);
        let parameter = parameter.required(Required::False).description(Some(what)).schema(Some(key));
        self.operation = self.operation.parameter(parameter);
        self.refuses(&[Code::BadIdempotencyKey, Code::IdempotencyConflict, Code::TokenAlreadyIssued])
    }

    /// Its unique name, what it belongs to, and what it does.
    pub(super) fn named(mut self, id: &str, tag: &str, does: &str) -> Self {
        self.operation = self.operation.operation_id(Some(id)).tag(tag).summary(Some(does));
        self
    }

    /// It answers without a key.
    pub(super) fn open(mut self) -> Self {
        self.is_open = true;
        self.refusals = vec![Code::InvalidRequest];
        self
    }

    /// It takes these parameters.
    pub(super) fn asks<P: IntoParams>(mut self) -> Self {
        for parameter in P::into_params(|| Some(ParameterIn::Query)) {
            self.operation = self.operation.parameter(parameter);
        }
        self
    }

    /// It takes this body.
    pub(super) fn takes<B: ToSchema>(self) -> Self {
        self.body::<B>(Required::True)
    }

    /// It takes this body, or none.
    pub(super) fn may_take<B: ToSchema>(self) -> Self {
        self.body::<B>(Required::False)
    }

    fn body<B: ToSchema>(mut self, required: Required) -> Self {
        let content = ContentBuilder::new().schema(Some(self.schema::<B>())).build();
        let body = RequestBodyBuilder::new().content("application/json", content).required(Some(required)).build();
        self.operation = self.operation.request_body(Some(body));
        self.refuses(&[Code::InvalidJson, Code::RequestTimeout, Code::BodyTooLarge, Code::UnsupportedMediaType])
    }

    /// The body it takes is also held to these rules, which are JSON schemas: how fields go together is
    /// nothing that their types say.
    pub(super) fn where_all(mut self, rules: Vec<Value>) -> Self {
        if let Some((_, RefOr::T(Schema::Object(body)))) = self.schemas.last_mut() {
            body.extensions = Some(Extensions::from_iter([("allOf", Value::Array(rules))]));
        }
        self
    }

    /// It answers this.
    pub(super) fn answers<R: ToSchema>(mut self, status: u16, what: &str) -> Self {
        let content = ContentBuilder::new().schema(Some(self.schema::<R>())).build();
        self.answer(status, ResponseBuilder::new().description(what).content("application/json", content))
    }

    /// It answers a list of these, a page at a time.
    pub(super) fn lists<R: ToSchema>(mut self, what: &str) -> Self {
        let rows = ArrayBuilder::new().items(self.schema::<R>());
        let content = ContentBuilder::new().schema(Some(rows)).build();
        let response = ResponseBuilder::new().description(what).content("application/json", content);
        let link = header("Where the next page is, with `rel=\"next\"`; absent on the last.", Type::String);
        self.answer(200, response.header("link", link)).refuses(&[Code::InvalidCursor])
    }

    /// It answers all there are of these at once.
    pub(super) fn answers_many<R: ToSchema>(mut self, what: &str) -> Self {
        let rows = ArrayBuilder::new().items(self.schema::<R>());
        let content = ContentBuilder::new().schema(Some(rows)).build();
        self.answer(200, ResponseBuilder::new().description(what).content("application/json", content))
    }

    /// It answers a list of these also as lines of JSON.
    pub(super) fn exports(mut self, media_type: &str) -> Self {
        let lines = ObjectBuilder::new().schema_type(Type::String);
        let content = ContentBuilder::new().schema(Some(lines)).build();
        if let Some((_, response)) = self.answers.last_mut() {
            response.content.insert(media_type.to_owned(), content.into());
        }
        self
    }

    /// It answers nothing.
    pub(super) fn leaves_nothing(self, what: &str) -> Self {
        self.answer(204, ResponseBuilder::new().description(what))
    }

    fn answer(mut self, status: u16, response: ResponseBuilder) -> Self {
        let mut response = response;
        if self.is_change {
            response = response
                .header("keyward-revision", header("The revision that holds the change.", Type::Integer))
                .header(
                    "keyward-applied",
                    header("Whether this gateway decides by it: `true` or `false`.", Type::String),
                )
                .header("keyward-confirmed", confirmed());
        }
        self.answers.push((status, response.build()));
        self
    }

    /// It may refuse with these codes, beside those that every endpoint has.
    pub(super) fn refuses(mut self, codes: &[Code]) -> Self {
        self.refusals.extend(codes);
        self
    }

    fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        T::schemas(&mut self.schemas);
        self.schemas.push((T::name().into_owned(), <T as PartialSchema>::schema()));
        Ref::from_schema_name(T::name()).into()
    }

    /// Its description.
    pub(super) fn describe(&mut self) -> Operation {
        let mut operation = std::mem::take(&mut self.operation);
        for (status, response) in std::mem::take(&mut self.answers) {
            operation = operation.response(status.to_string(), response);
        }
        let mut by_status: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
        for code in &self.refusals {
            by_status.entry(code.status()).or_default().push(code.as_str());
        }
        let problem = self.schema::<Problem<'_>>();
        for (status, mut codes) in by_status {
            codes.sort_unstable();
            codes.dedup();
            let content = ContentBuilder::new().schema(Some(problem.clone())).build();
            let text = format!("`{}`.", codes.join("`, `"));
            let response = ResponseBuilder::new().description(text).content(PROBLEM_JSON, content);
            operation = operation.response(status.to_string(), response.build());
        }
        if self.is_open {
            operation = operation.securities(Some([]));
        }
        operation.build()
    }
}

/// What the name in a path may be.
fn in_path(path: &str) -> ObjectBuilder {
    let text = ObjectBuilder::new().schema_type(Type::String);
    let family = |prefix: &str| path.starts_with(prefix);
    let pattern = if family("/v1/users/") {
        "^[A-Za-z0-9._:@+-]{1,128}$"
    } else if family("/v1/gateways/") {
        "^gw_[0-9a-f]{32}$"
    } else if family("/v1/revisions/") {
        return ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(i64::MAX));
    } else if path.ends_with("/rotate") && !path.ends_with("/webhook-secret/rotate") {
        "^(self|key_[0-9a-f]{32})$"
    } else {
        "^key_[0-9a-f]{32}$"
    };
    text.pattern(Some(pattern))
}

fn confirmed() -> utoipa::openapi::Header {
    let which = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["all", "partial"]));
    let what = "Where `wait` was given: whether every gateway decides by it. `/v1/revisions/{revision}` names those \
                that do not.";
    HeaderBuilder::new().description(Some(what)).schema(Some(which)).build()
}

fn header(what: &str, kind: Type) -> utoipa::openapi::Header {
    HeaderBuilder::new().description(Some(what)).schema(Some(ObjectBuilder::new().schema_type(kind))).build()
}
