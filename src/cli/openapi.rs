//! `keyward openapi`: the description of the management API.

use super::failure::Failure;
use super::output::Output;
use crate::admin::openapi_document;

/// Print the management API's description: OpenAPI 3.1, as JSON
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward openapi > openapi.json")]
pub(super) struct Args {}

pub(super) fn run(_args: &Args, output: &mut Output) -> Result<(), Failure> {
    output.json(&openapi_document())?;
    output.flush()
}
