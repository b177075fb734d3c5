//! What was typed: the tree of commands. What each means is its own file's business.

use std::ffi::OsString;

use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

use super::failure::Failure;
use super::output::Output;
use super::{
    check, completions, events, explain, gateways, health, init, keys, openapi, quickstart, secrets, serve, store,
    users,
};

/// A reverse proxy that lets only authorized API keys through
#[derive(Debug, Parser)]
#[command(name = "keyward", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub(super) struct Typed {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Quickstart(quickstart::Args),
    Init(init::Args),
    Serve(serve::Args),
    Check(check::Args),
    Explain(explain::Args),
    Keys(keys::Args),
    Users(users::Args),
    Secrets(secrets::Args),
    Store(store::Args),
    Events(events::Args),
    Gateways(gateways::Args),
    Health(health::Args),
    Openapi(openapi::Args),
    Completions(completions::Args),
}

const EXAMPLES: &str = "\
Examples:
  keyward quickstart
  keyward check -c keyward.toml
  keyward serve -c keyward.toml
  keyward keys create -c keyward.toml --project acme --name build --flag jobs:read

Exit codes: 0 done, 1 failed, 2 typed wrongly, 64 the configuration cannot be used.";

/// Reads the arguments. None where help or the version was asked for and printed.
pub(super) fn read(arguments: &[OsString], output: &mut Output) -> Result<Option<Typed>, Failure> {
    let error = match Typed::try_parse_from(arguments) {
        Ok(typed) => return Ok(Some(typed)),
        Err(error) => error,
    };
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => output.raw(text.as_bytes()).map(|()| None),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Err(Failure::Usage(format!("no command given; see `{} --help`", command_of(arguments))))
        }
        ErrorKind::UnknownArgument
            if error.get(ContextKind::InvalidArg).is_some_and(|arg| arg.to_string() == "--admin") =>
        {
            let command = command_of(arguments);
            Err(Failure::Usage(format!(
                "{command} works on this machine and has no --admin: give -c FILE in its place"
            )))
        }
        _ => {
            let told = format!("{}; see `{} --help`", one_line(&text), command_of(arguments));
            Err(Failure::Usage(without_secrets(told, arguments)))
        }
    }
}

/// The whole command line, for completions and the test of the docs.
pub(super) fn command() -> clap::Command {
    Typed::command()
}

/// The parser's complaint and its tip, without usage and line breaks.
fn one_line(text: &str) -> String {
    let complaint = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let words: Vec<_> = complaint.filter(|line| !line.is_empty() && !line.starts_with("For more")).collect();
    let joined = words.join(" ").replace(" tip: ", "; ");
    joined.strip_prefix("error: ").unwrap_or(&joined).to_owned()
}

/// The command that was meant, as far as it was typed: `keyward keys create`.
fn command_of(arguments: &[OsString]) -> String {
    let mut command = command();
    let mut name = command.get_name().to_owned();
    for argument in arguments.iter().skip(1) {
        let Some(next) = argument.to_str().and_then(|word| command.find_subcommand(word)) else { break };
        name = format!("{name} {}", next.get_name());
        command = next.clone();
    }
    name
}

/// A complaint may quote an argument, and an argument may be a token: whatever is long enough to be
/// one, and is no option or id, is cut.
fn without_secrets(told: String, arguments: &[OsString]) -> String {
    let words = arguments.iter().filter_map(|argument| argument.to_str());
    let values = words.map(|word| word.split_once('=').map_or(word, |(_option, value)| value));
    let is_id = |word: &str| word.starts_with("key_") || word.starts_with("gw_");
    let secrets = values.filter(|word| word.len() >= 20 && !word.starts_with('-') && !is_id(word));
    secrets.fold(told, |told, secret| {
        let shown: String = secret.chars().take(8).collect();
        told.replace(secret, &format!("{shown}…"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(arguments: &[&str]) -> String {
        let arguments: Vec<OsString> = std::iter::once(&"keyward").chain(arguments).map(OsString::from).collect();
        match read(&arguments, &mut Output::stdout()) {
            Err(Failure::Usage(line)) => line,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_tree_of_commands_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn a_wrong_argument_is_told_in_one_line_that_says_where_help_is() {
        let line = refused(&["keys", "list", "-c", "x", "--colour"]);
        assert!(line.starts_with("unexpected argument '--colour' found"), "{line}");
        assert!(line.ends_with("see `keyward keys list --help`"), "{line}");
        assert!(!line.contains('\n'));
        let line = refused(&["keys", "list"]);
        assert!(line.contains("required") && line.contains("--config <FILE>"), "{line}");
        assert!(refused(&[]).contains("no command given"));
        let line = refused(&["chek"]);
        assert!(
            line.starts_with("unrecognized subcommand 'chek'; a similar subcommand exists: 'check'; see"),
            "{line}"
        );
    }

    #[test]
    fn a_token_in_the_wrong_place_is_not_repeated() {
        let token = format!("kw_live_{}", "a".repeat(49));
        let line = refused(&["keys", "show", "-c", "x", &token]);
        assert!(!line.contains(&token), "{line}");
        let line = refused(&["keys", "list", "-c", "x", &format!("--limit={token}")]);
        assert!(!line.contains(&token), "{line}");
    }

    /// The page on the command line, by command.
    const PAGE: &str = include_str!("../../docs/CLI.md");

    /// Every command that does something, with its name as it is typed.
    fn leaves() -> Vec<(String, clap::Command)> {
        fn collect(name: &str, command: &clap::Command, leaves: &mut Vec<(String, clap::Command)>) {
            if !command.has_subcommands() {
                leaves.push((name.to_owned(), command.clone()));
            }
            for next in command.get_subcommands().filter(|next| next.get_name() != "help") {
                collect(&format!("{name} {}", next.get_name()), next, leaves);
            }
        }
        let mut root = command();
        root.build();
        let mut found = Vec::new();
        collect("keyward", &root, &mut found);
        found
    }

    #[test]
    fn the_page_has_every_command_with_exactly_its_options() {
        for (name, command) in leaves() {
            let heading = format!("## `{name}`\n");
            let section = PAGE.split_once(&heading).unwrap_or_else(|| panic!("no section {heading:?}")).1;
            let section = section.split("\n## ").next().unwrap_or_default();
            let options = command.get_arguments().filter_map(|argument| argument.get_long());
            let mut options: Vec<_> =
                options.filter(|option| *option != "help").map(|name| format!("--{name}")).collect();
            let rows = section.lines().filter(|line| line.starts_with("| `"));
            let mut told: Vec<_> = rows
                .filter_map(|row| row.split('`').nth(1))
                .filter_map(|cell| cell.split([' ', ',']).find(|word| word.starts_with("--")))
                .map(str::to_owned)
                .collect();
            options.sort();
            told.sort();
            assert_eq!(told, options, "{name}");
        }
        let headings = PAGE.lines().filter(|line| line.starts_with("## `keyward")).count();
        assert_eq!(headings, leaves().len(), "a section of a command that is gone");
    }

    #[test]
    fn every_example_in_help_and_page_can_be_typed() {
        let mut examples: Vec<String> = PAGE.replace(" \\\n", " ").lines().map(str::to_owned).collect();
        for (_, command) in leaves() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            // Longer lines would be broken where no shell expects it.
            assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
            examples.extend(help.replace(" \\\n", " ").lines().map(str::to_owned));
        }
        let mut count = 0;
        for example in examples {
            for part in example.split(['|', '<', '>', '&', '#']) {
                let Some(words) = part.trim().strip_prefix("keyward ") else { continue };
                let id = format!("key_{}", "0".repeat(32));
                let gateway = format!("gw_{}", "0".repeat(32));
                let words = words.replace("key_0193…", &id).replace("gw_0193…", &gateway).replace('\'', "");
                let typed = std::iter::once("keyward").chain(words.split_whitespace());
                if let Err(fault) = Typed::try_parse_from(typed) {
                    panic!("{part}: {fault}");
                }
                count += 1;
            }
        }
        assert!(count > 30, "only {count} examples");
    }
}
