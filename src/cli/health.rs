//! `keyward health`: whether a running gateway answers, as a container's check asks it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::json;

use super::failure::Failure;
use super::output::Output;
use super::place;
use super::values::duration;

/// The most bytes that are read of an answer's first line, which is all that counts.
const LINE_BYTES_MAX: u64 = 256;

/// Ask a running gateway whether it is alive; exits 0 where it says so, else 1
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  keyward health -c keyward.toml
  keyward health --url http://127.0.0.1:9464/readyz --timeout 500ms")]
pub(super) struct Args {
    #[command(flatten)]
    whom: Whom,
    /// How long to wait for each step
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2s")]
    timeout: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Whom {
    /// The gateway of this configuration file: its [ops] listener
    #[arg(short = 'c', long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    /// The gateway at this address: http://HOST:PORT, asked for /livez where no path is given
    #[arg(long, value_name = "URL")]
    url: Option<http::Uri>,
}

/// Whom to ask for what.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    authority: String,
    path: String,
}

pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let question = match (&args.whom.config, &args.whom.url) {
        (_, Some(url)) => Question::at(url)?,
        (Some(file), None) => Question::to(place::ops_address(file)?),
        (None, None) => return Err(Failure::usage("expected --config or --url")),
    };
    let whom = format!("http://{}{}", question.authority, question.path);
    let status =
        ask(&question, args.timeout).map_err(|error| Failure::of(format_args!("no answer from {whom}"), &error))?;
    match status {
        Some(200) if args.json => output.json(&json!({ "url": whom, "status": 200 })),
        Some(200) => output.line("ok"),
        Some(status) => Err(Failure::failed(format_args!("{whom} answers {status}"))),
        None => Err(Failure::failed(format_args!("{whom} answers something that is not HTTP"))),
    }
}

impl Question {
    /// What `url` asks.
    fn at(url: &http::Uri) -> Result<Self, Failure> {
        let (Some("http"), Some(host)) = (url.scheme_str(), url.host()) else {
            return Err(Failure::usage("--url: expected http://HOST:PORT"));
        };
        let path = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let authority = format!("{host}:{}", url.port_u16().unwrap_or(80));
        Ok(Self { authority, path: if path == "/" { "/livez".to_owned() } else { path.to_owned() } })
    }

    /// Whether what listens on `address` is alive.
    fn to(address: SocketAddr) -> Self {
        // Nobody can be called at "any address"; who listens there answers on the loopback.
        let host = match address.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            host @ (IpAddr::V4(_) | IpAddr::V6(_)) => host,
        };
        Self { authority: SocketAddr::new(host, address.port()).to_string(), path: "/livez".to_owned() }
    }
}

/// The status that is answered, or none where the answer is no HTTP.
fn ask(question: &Question, timeout: Duration) -> io::Result<Option<u16>> {
    let address = question.authority.to_socket_addrs()?.next();
    let address = address.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let Question { authority, path } = question;
    let fields = format!("host: {authority}\r\nconnection: close\r\nuser-agent: keyward-health");
    stream.write_all(format!("GET {path} HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes())?;
    let mut line = Vec::new();
    BufReader::new(stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    Ok(status_of(&line))
}

fn status_of(line: &[u8]) -> Option<u16> {
    let mut words = std::str::from_utf8(line).ok()?.trim_end().split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answered(answer: &'static [u8]) -> io::Result<Option<u16>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let question = Question::to(listener.local_addr()?);
        let server = std::thread::Builder::new().name("server".to_owned()).spawn(move || {
            let (mut stream, _) = listener.accept()?;
            let mut request = [0; 1024];
            let read = stream.read(&mut request)?;
            stream.write_all(answer)?;
            io::Result::Ok(request[..read].to_vec())
        })?;
        let status = ask(&question, Duration::from_secs(5));
        let request = server.join().expect("the server does not panic")?;
        assert!(request.starts_with(b"GET /livez HTTP/1.1\r\n"));
        status
    }

    #[test]
    fn the_status_of_the_answer_counts() {
        assert_eq!(answered(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok(), Some(Some(200)));
        assert_eq!(answered(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").ok(), Some(Some(503)));
        assert_eq!(answered(b"SSH-2.0-OpenSSH\r\n").ok(), Some(None));
    }

    #[test]
    fn an_address_that_stands_for_all_is_asked_on_the_loopback() {
        let asked = |address: &str| Question::to(address.parse().expect("an address")).authority;
        assert_eq!(asked("0.0.0.0:9464"), "127.0.0.1:9464");
        assert_eq!(asked("[::]:9464"), "[::1]:9464");
        assert_eq!(asked("10.0.0.1:9464"), "10.0.0.1:9464");
    }

    #[test]
    fn a_url_without_a_path_asks_for_life() {
        let at = |url: &'static str| Question::at(&http::Uri::from_static(url));
        assert_eq!(at("http://gw:9464").map(|question| question.path), Ok("/livez".to_owned()));
        assert_eq!(at("http://gw:9464/readyz").map(|question| question.path), Ok("/readyz".to_owned()));
        assert_eq!(at("http://gw").map(|question| question.authority), Ok("gw:80".to_owned()));
        assert!(at("https://gw:9464").is_err());
    }
}
