//! `keyward keys revoke`: ends keys for good.

use clap::ValueEnum;
use serde::Serialize;

use crate::admin::{ConfirmationShape, Revocation};
use crate::cli::failure::Failure;
use crate::cli::gateways::{WaitOption, unconfirmed};
use crate::cli::output::Output;
use crate::cli::place::Place;
use crate::cli::values::{ConfigFile, key_id};
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
    config: ConfigFile,
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
    revocation: Revocation,
    confirmation: ConfirmationShape<'a>,
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
    let place = Place::open(&args.config)?;
    let revoked = place.wait(place.manager.revoke_key(&place.caller, args.id, scope))?;
    let revision = revoked.committed.revision;
    if args.json {
        let revocation = Revocation::of(&revoked);
        let Some(confirmation) = args.wait.confirmation(&place, revision)? else { return output.json(&revocation) };
        output.json(&Confirmed { revocation, confirmation: ConfirmationShape::of(&confirmation) })?;
        output.flush()?;
        return unconfirmed(&confirmation);
    }
    for key in &revoked.keys {
        output.line(format_args!("revoked key {} ({}), revision {revision}", key.id, key.name))?;
    }
    if revoked.keys.is_empty() {
        output.line(format_args!("key {} was revoked already, revision {revision}", args.id))?;
    }
    for id in &revoked.related {
        output.line(format_args!("not revoked: {id}, of its lineage or minted by it; see --scope"))?;
    }
    args.wait.tell(&place, revision, output)
}
