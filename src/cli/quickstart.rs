//! `keyward quickstart`: a whole gateway in one folder, and what to type to see it work.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::output::{Output, complain};
use super::place;
use crate::app::{Bound, Demo};
use crate::key::Token;

/// Make a gateway with a demo key in a folder, print what to try, and run it
///
/// What the folder holds already is used as it is, so a second run starts the same gateway.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward quickstart
  keyward quickstart --upstream http://127.0.0.1:3000 --dir /tmp/try")]
pub(super) struct Args {
    /// The service to stand in front of; without it one is started that echoes what it is sent
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// The folder
    #[arg(long, value_name = "FOLDER", default_value = "keyward-data")]
    dir: PathBuf,
    /// Where to listen, such as 127.0.0.1:8443; without it where the folder's configuration says
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let demo = place::prepare_quickstart(&args.dir, args.upstream.as_deref(), args.listen)?;
    print_made(&demo, output)?;
    let (token, certificate, path) = (demo.token.clone(), demo.certificate.clone(), demo.path.clone());
    place::serve_quickstart(demo, args.listen, move |bound| {
        if let Err(unprinted) = print_what_to_try(&token, &certificate, &path, bound, &mut Output::stdout()) {
            complain(&unprinted);
        }
    })
}

fn print_made(demo: &Demo, output: &mut Output) -> Result<(), Failure> {
    for path in &demo.made.made {
        output.line(format_args!("# made {}", path.display()))?;
    }
    if let Some((id, token)) = &demo.made.operator {
        output.line(format_args!("# made the operator key {id}. Its token, shown this once and stored nowhere:"))?;
        output.line(format_args!("# {}", token.expose()))?;
        output.line("# It makes, changes and ends keys by the management API, and opens no route itself.")?;
    }
    output.line(format_args!("# made the demo key {}, which holds the flag demo.read", demo.key))?;
    output.flush()
}

/// What to type: requests to the gateway, and how to make a key by the management API.
fn print_what_to_try(
    token: &Token,
    certificate: &Path,
    path: &str,
    bound: &Bound,
    output: &mut Output,
) -> Result<(), Failure> {
    if let Some(address) = bound.gateway.first() {
        print_curl_lines(token, certificate, &url_of(*address, path), output)?;
    }
    if let Some(address) = bound.admin {
        output.line("# To make a key of your own, with the operator's token in OPERATOR:")?;
        output.line(format_args!(
            "#   curl -H \"Authorization: Bearer $OPERATOR\" -H 'Content-Type: application/json' \
             -d '{{\"project_id\":\"demo\",\"name\":\"mine\",\"scopes\":[\"demo.read\"]}}' http://{address}/v1/api-keys"
        ))?;
    }
    output.line("# Ctrl-C stops it.")?;
    output.flush()
}

/// Each line is whole: it can be copied, or piped into a shell.
fn print_curl_lines(token: &Token, certificate: &Path, url: &str, output: &mut Output) -> Result<(), Failure> {
    let curl = format!("curl -i --cacert {}", quoted(&certificate.display().to_string()));
    let bearer = format!("-H 'Authorization: Bearer {}'", token.expose());
    output.line("# Ready. Try:")?;
    output.line(format_args!("{curl} {bearer} {url}  # 200: the demo key holds demo.read"))?;
    output.line(format_args!("{curl} {url}  # 401: there is no key"))?;
    output.line(format_args!("{curl} -X POST {bearer} {url}  # 403: the demo key lacks demo.write"))
}

/// The address as curl is told it. The certificate is for `localhost` and its two addresses.
fn url_of(address: SocketAddr, path: &str) -> String {
    let port = address.port();
    match address.ip() {
        IpAddr::V4(ip) if ip.is_loopback() || ip.is_unspecified() => quoted(&format!("https://127.0.0.1:{port}{path}")),
        IpAddr::V6(ip) if ip.is_loopback() || ip.is_unspecified() => quoted(&format!("https://[::1]:{port}{path}")),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => {
            format!("--resolve localhost:{port}:{ip} {}", quoted(&format!("https://localhost:{port}{path}")))
        }
    }
}

/// `text` as one word of a shell.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-' | b':');
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_as_the_certificate_names_it() {
        let url = |address: &str| url_of(address.parse().expect("an address"), "/demo/");
        assert_eq!(url("127.0.0.1:8443"), "https://127.0.0.1:8443/demo/");
        assert_eq!(url("0.0.0.0:8443"), "https://127.0.0.1:8443/demo/");
        assert_eq!(url("[::1]:8443"), "'https://[::1]:8443/demo/'");
        assert_eq!(url("10.0.0.7:1"), "--resolve localhost:1:10.0.0.7 https://localhost:1/demo/");
    }

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        assert_eq!(quoted("keyward-data/tls/server.pem"), "keyward-data/tls/server.pem");
        assert_eq!(quoted("my data/x"), "'my data/x'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
