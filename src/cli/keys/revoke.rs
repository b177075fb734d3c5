//! `keyward keys revoke`: ends keys for good.

use clap::ValueEnum;
use serde::Serialize;

use crate::cli::documents::{Confirmation, Revocation};
use crate::cli::failure::Failure;
use crate::cli::gateways::{WaitOption, unconfirmed};
use crate::cli::operations::Names;
use crate::cli::output::Output;
use crate::cli::place;
use crate::cli::values::{Whom, key_id};
use crate::key::KeyId;
use crate::manage::RevokeScope;

/// End a key for good; no later change makes it work again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward keys revoke -c keyward.toml key_0193…
  keyward keys revoke -c keyward.toml key_0193… --scope lineage
  keyward keys revoke -c keyward.toml key_0193… --wait 5s")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    whom: Whom,
    /// The key
    #[arg(value_name = "ID", value_parser = key_id)]
    id: KeyId,
    /// How far it reaches
    #[arg(long, value_enum, value_name = "SCOPE", default_value_t = Scope::Key)]
    scope: Scope,
    #[command(flatten)]
    wait: WaitOption,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A revocation and where it is in force, as JSON.
#[derive(Serialize)]
struct Confirmed<'a> {
    #[serde(flatten)]
    revocation: &'a Revocation,
    confirmation: &'a Confirmation,
}

/// How far a revocation reaches, as typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Scope {
    /// This key alone
    Key,
    /// This key, all it replaced and all that replaced it
    Lineage,
    /// This key and all keys it minted, directly or through others
    Descendants,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let scope = match args.scope {
        Scope::Key => RevokeScope::Key,
        Scope::Lineage => RevokeScope::Lineage,
        Scope::Descendants => RevokeScope::Descendants,
    };
    let asked = place::open(&args.whom)?;
    let names = if args.json { Names::Kept } else { Names::Told };
    let revoked = asked.revoke_key(args.id, scope, names)?;
    let (revision, document) = (revoked.document.revision, &revoked.document);
    if args.json {
        let Some(confirmation) = args.wait.confirmation(&*asked, revision)? else { return output.json(document) };
        output.json(&Confirmed { revocation: document, confirmation: &confirmation })?;
        output.flush()?;
        return unconfirmed(&confirmation);
    }
    let names = revoked.names.into_iter().chain(std::iter::repeat(None));
    for (id, name) in document.revoked.iter().zip(names) {
        let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
        output.line(format_args!("revoked key {id}{name}, revision {revision}"))?;
    }
    if document.revoked.is_empty() {
        output.line(format_args!("key {} was revoked already, revision {revision}", args.id))?;
    }
    for id in &document.related {
        output.line(format_args!("not revoked: {id}, of its lineage or minted by it; see --scope"))?;
    }
    args.wait.tell(&*asked, revision, output)
}
