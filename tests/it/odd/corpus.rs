//! Odd HTTP/1 requests, each with what must become of it. `{T}` in one stands for a good token.

/// One odd request, or a few in a row.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    pub(super) end: End,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It is answered with this status, and nothing arrives.
    Refused(u16),
    /// So many requests arrive, each canonical, and are answered 200.
    Arrives(usize),
    /// The connection is closed without an answer, and nothing arrives.
    Closed,
}

use End::{Arrives, Closed, Refused};

/// Every case.
pub(super) fn corpus() -> Vec<Case> {
    let mut all = Corpus(Vec::new());
    all.request_lines();
    all.targets();
    all.paths();
    all.hosts();
    all.framing();
    all.chunks();
    all.fields();
    all.connection_options();
    all.identity();
    all.credentials();
    all.grpc();
    all.sizes_and_sequences();
    all.0
}

struct Corpus(Vec<Case>);

impl Corpus {
    fn add(&mut self, name: &str, bytes: impl AsRef<[u8]>, end: End) {
        self.0.push(Case { name: name.to_owned(), bytes: bytes.as_ref().to_vec(), end });
    }

    /// A GET of a public path with one more line in its head.
    fn line(&mut self, line: &str, end: End) {
        self.add(line, format!("GET /public/x HTTP/1.1\r\nHost: a.example\r\n{line}\r\n\r\n"), end);
    }

    /// A POST with these lines in its head and this body.
    fn post(&mut self, lines: &str, body: &str, end: End) {
        let name = format!("{lines} / {body}");
        self.add(&name, format!("POST /public/x HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n\r\n{body}"), end);
    }

    fn request_lines(&mut self) {
        let rest = "\r\nHost: a.example\r\n\r\n";
        for (line, end) in [
            ("GET /public/x HTTP/1.1", Arrives(1)),
            ("GET /public/x HTTP/1.0", Arrives(1)),
            ("HEAD /public/x HTTP/1.1", Arrives(1)),
            ("OPTIONS /public/x HTTP/1.1", Arrives(1)),
            ("DELETE /public/x HTTP/1.1", Arrives(1)),
            ("\r\nGET /public/x HTTP/1.1", Arrives(1)),
            ("\r\n\r\nGET /public/x HTTP/1.1", Arrives(1)),
            ("\nGET /public/x HTTP/1.1", Arrives(1)),
            (" GET /public/x HTTP/1.1", Refused(400)),
            ("\tGET /public/x HTTP/1.1", Refused(400)),
            ("GET  /public/x HTTP/1.1", Refused(400)),
            ("GET\t/public/x HTTP/1.1", Refused(400)),
            ("GET /public/x  HTTP/1.1", Refused(400)),
            ("GET /public/x\tHTTP/1.1", Refused(400)),
            ("GET /public/x HTTP/1.1 ", Refused(400)),
            ("GET /public/x HTTP/1.1\t", Refused(400)),
            ("GET /public/x HTTP/1.1 x", Refused(400)),
            ("GET /public/x y HTTP/1.1", Refused(400)),
            ("GET /public/x", Refused(400)),
            ("GET HTTP/1.1", Refused(400)),
            ("/public/x HTTP/1.1", Refused(400)),
            ("GET /public/x HTTP/1.2", Refused(400)),
            ("GET /public/x HTTP/1.10", Refused(400)),
            ("GET /public/x HTTP/1.01", Refused(400)),
            ("GET /public/x HTTP/01.1", Refused(400)),
            ("GET /public/x HTTP/0.9", Refused(400)),
            ("GET /public/x HTTP/2", Refused(400)),
            ("GET /public/x HTTP/2.0", Refused(400)),
            ("GET /public/x HTTP/3.0", Refused(400)),
            ("GET /public/x http/1.1", Refused(400)),
            ("GET /public/x HTTP/1,1", Refused(400)),
            ("GET /public/x HTTP /1.1", Refused(400)),
            ("GET /public/x HTTP/ 1.1", Refused(400)),
            ("GET /public/x ICAP/1.0", Refused(400)),
            ("GET /public/x HTTP/1.1\0", Refused(400)),
            ("get /public/x HTTP/1.1", Refused(501)),
            ("Get /public/x HTTP/1.1", Refused(501)),
            ("GETT /public/x HTTP/1.1", Refused(501)),
            ("PROPFIND /public/x HTTP/1.1", Refused(501)),
            ("QUERY /public/x HTTP/1.1", Refused(501)),
            ("PRI /public/x HTTP/1.1", Refused(501)),
            ("G!T /public/x HTTP/1.1", Refused(501)),
            ("G\0T /public/x HTTP/1.1", Refused(400)),
            ("G\x7fT /public/x HTTP/1.1", Refused(400)),
            ("GET: /public/x HTTP/1.1", Refused(400)),
            ("\"GET\" /public/x HTTP/1.1", Refused(400)),
            ("G(T /public/x HTTP/1.1", Refused(400)),
            ("TRACE /public/x HTTP/1.1", Refused(405)),
            ("TRACE /nowhere HTTP/1.1", Refused(405)),
            ("CONNECT a.example:443 HTTP/1.1", Refused(405)),
            ("CONNECT /public/x HTTP/1.1", Refused(405)),
            ("POST /keyrings/comms HTTP/1.1", Refused(405)),
            ("GET /nowhere HTTP/1.1", Refused(404)),
        ] {
            self.add(line, format!("{line}{rest}"), end);
        }
        self.add("bare line feeds", "GET /public/x HTTP/1.1\nHost: a.example\n\n", Arrives(1));
        self.add("mixed line ends", "GET /public/x HTTP/1.1\r\nHost: a.example\n\r\n", Arrives(1));
        self.add("bare returns", "GET /public/x HTTP/1.1\rHost: a.example\r\r", Refused(400));
        self.add("0.9", "GET /public/x\r\n\r\n", Refused(400));
        self.add("1.0 without a host", "GET /public/x HTTP/1.0\r\n\r\n", Arrives(1));
        self.add("no lines", "\r\n\r\n\r\n\r\n", Refused(408));
        self.add("half a line", "GET /public/x HT", Refused(408));
        self.add("half a head", "GET /public/x HTTP/1.1\r\nHost: a.exam", Refused(408));
        self.add("one byte", "P", Refused(408));
        self.add("nothing", "", Closed);
        self.add("a TLS hello in clear", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", Refused(400));
        self.add("SSH", "SSH-2.0-OpenSSH_9.6\r\n", Refused(400));
        self.add("SMTP", "EHLO a.example\r\n", Refused(400));
        self.add("redis", "*1\r\n$4\r\nPING\r\n", Refused(400));
        self.add(
            "a PROXY header",
            "PROXY TCP4 6.6.6.6 1.1.1.1 1 2\r\nGET /public/x HTTP/1.1\r\nHost: a\r\n\r\n",
            Refused(400),
        );
        self.add("a mark of bytes", b"\xef\xbb\xbfGET /public/x HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400));
        self.add("a broken preface", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Refused(400));
    }

    fn targets(&mut self) {
        for (target, end) in [
            ("public/x", Refused(400)),
            ("admin", Refused(400)),
            ("!", Refused(400)),
            ("?a", Refused(400)),
            ("?", Refused(400)),
            ("#", Refused(400)),
            ("*", Refused(400)),
            ("**", Refused(400)),
            ("evil:80", Refused(400)),
            ("a.example", Refused(400)),
            ("//public/x", Refused(400)),
            ("//evil/public/x", Refused(400)),
            ("///", Refused(400)),
            ("http:///public/x", Refused(400)),
            ("http://", Refused(400)),
            ("http:/public/x", Refused(400)),
            ("http:public/x", Refused(400)),
            ("://a.example/public/x", Refused(400)),
            ("http://a.example/public/x", Arrives(1)),
            ("http://A.EXAMPLE/public/x", Arrives(1)),
            ("http://a.example:80/public/x", Arrives(1)),
            ("https://a.example:443/public/x", Arrives(1)),
            ("http://b.example/public/x", Refused(400)),
            ("http://a.example:81/public/x", Refused(400)),
            ("http://a.example:/public/x", Refused(400)),
            ("http://u@a.example/public/x", Refused(400)),
            ("http://u:p@a.example/public/x", Refused(400)),
            ("http://@a.example/public/x", Refused(400)),
            ("http://a.example@b.example/public/x", Refused(400)),
            ("http://a.example/../public/x", Refused(400)),
            ("http://a.example?/public/x", Refused(400)),
            ("http://a.example", Refused(404)),
            ("http://a.example\\@b.example/public/x", Refused(400)),
            ("ftp://a.example/public/x", Refused(400)),
            ("file:///public/x", Refused(400)),
            ("ws://a.example/public/x", Refused(400)),
            ("h2c://a.example/public/x", Refused(400)),
            ("javascript:alert(1)", Refused(400)),
            ("/public/x?a=b&c=%20", Arrives(1)),
            ("/public/x?../../admin", Arrives(1)),
            ("/public/x?a=%00", Arrives(1)),
            ("/public/x?", Arrives(1)),
            ("/public/x??", Arrives(1)),
            ("/public/x?a=http://b/", Arrives(1)),
            ("/public/x?a=\\", Arrives(1)),
            ("/public/x?a=<>", Refused(400)),
            ("/public/x?a={}|^`'", Arrives(1)),
            ("/public/x?\x01", Refused(400)),
            ("/public/x?\x7f", Refused(400)),
            ("/public/x#frag", Refused(400)),
            ("/public/x#/../../admin/x", Refused(400)),
            ("/public/x?a#b", Refused(400)),
        ] {
            self.add(target, format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"), end);
        }
        self.add("* of OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(204));
        self.add("* of OPTIONS without a host", "OPTIONS * HTTP/1.1\r\n\r\n", Refused(400));
        self.add("/* of OPTIONS", "OPTIONS /* HTTP/1.1\r\nHost: a.example\r\n\r\n", Refused(404));
        self.add("raw bytes in a query", b"GET /public/x?\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", Arrives(1));
        self.add("no text in a query", b"GET /public/x?\xff HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400));
        self.add("raw bytes in a path", b"GET /public/\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400));
        self.add("no text in a path", b"GET /public/\xff HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400));
        self.add("an overlong dot", b"GET /public/\xc0\xae\xc0\xae/x HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400));
    }

    fn paths(&mut self) {
        for path in [
            "/public/../any/x",
            "/public/./x",
            "/public/..",
            "/public/.",
            "/./public/x",
            "/../public/x",
            "/public/%2e%2e/admin/x",
            "/public/%2E%2e/admin/x",
            "/public/.%2e/x",
            "/public/%2e/x",
            "/public/%2e",
            "/public/..%2fadmin/x",
            "/public/..%2Fadmin",
            "/public%2fadmin/x",
            "/public/x%2fy",
            "/public/%252e%252e/x",
            "/public/%25",
            "/public/a%252fb",
            "/public/%5c..%5cadmin",
            "/public/..\\admin",
            "/public\\admin",
            "/public/%5C",
            "/public//admin/x",
            "/public//x",
            "//public/x",
            "/public/x//",
            "/public/;/x",
            "/public/..;/admin/x",
            "/public/.;/x",
            "/public;a=b/x",
            "/public/x;a=b",
            "/public/admin;x/y",
            "/public/x%3bb",
            "/public/x%3Bb",
            "/public/%00",
            "/public/x%00.html",
            "/public/x%0a",
            "/public/x%0d%0aHost:%20b",
            "/public/x%7f",
            "/public/%zz",
            "/public/%",
            "/public/%4",
            "/public/%u0041",
            "/public/%2",
            "/public/x%23y",
            "/public/x%3fy",
            "/public/x|y",
            "/public/x^y",
            "/public/{x}",
            "/public/[x]",
            "/public/x\"y",
            "/public/x<y>",
            "/public/x`y",
            "/public/%ff",
            "/public/%c0%ae%c0%ae/x",
            "/public/%e0%80%ae/x",
            "/public/%c2%85",
            "/public/%ed%a0%80",
        ] {
            self.add(path, format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n"), Refused(400));
        }
        for (path, end) in [
            ("/public/x/", Arrives(1)),
            ("/public/%78", Arrives(1)),
            ("/%70ublic/x", Arrives(1)),
            ("/%70%75%62%6c%69%63/x", Arrives(1)),
            ("/public/%41%2d%5f%7e", Arrives(1)),
            ("/public/%C3%A9", Arrives(1)),
            ("/public/%c3%a9", Arrives(1)),
            ("/public/a%20b", Arrives(1)),
            ("/public/a+b", Arrives(1)),
            ("/public/...", Arrives(1)),
            ("/public/.git", Arrives(1)),
            ("/public/a..b", Arrives(1)),
            ("/public/~!$&'()*+,=:@", Arrives(1)),
            ("/PUBLIC/x", Refused(404)),
            ("/Public/x", Refused(404)),
            ("/publicx", Refused(404)),
            ("/public", Arrives(1)),
            ("/public/", Arrives(1)),
            ("/public/admin", Refused(401)),
            ("/public/admin/", Refused(401)),
            ("/public/admin/x", Refused(401)),
            ("/public/%61dmin/x", Refused(401)),
            ("/%70ublic/%61%64%6d%69%6e", Refused(401)),
            ("/public/admin%2Fx", Refused(400)),
            ("/public/ADMIN/x", Arrives(1)),
            ("/lax/a%2fb", Arrives(1)),
            ("/lax/a;b=c", Arrives(1)),
            ("/lax//x", Arrives(1)),
            ("//lax///x", Arrives(1)),
            ("/lax/%2541", Arrives(1)),
            ("/lax/%ff", Arrives(1)),
            ("/lax/a%3fb%23c", Arrives(1)),
            ("/lax/..%2f", Refused(400)),
            ("/lax/../x", Refused(400)),
            ("/lax/..;/x", Refused(400)),
            ("/lax/%252e%252e/x", Refused(400)),
            ("/lax/a%2f..%2fb", Refused(400)),
            ("/lax/%5c", Refused(400)),
            ("/lax/%00", Refused(400)),
            ("/lax//admin/x", Refused(400)),
            ("//lax//admin//x", Refused(400)),
            ("/lax/admin", Refused(401)),
            ("/lax/admin;x=y/z", Refused(400)),
            ("/lax/;/admin/z", Refused(400)),
            ("/lax/;x/admin/z", Refused(400)),
            ("/lax/a/b/admin", Arrives(1)),
        ] {
            self.add(path, format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n"), end);
        }
    }

    fn hosts(&mut self) {
        for (lines, end) in [
            ("", Refused(400)),
            ("Host:\r\n", Refused(400)),
            ("Host: \r\n", Refused(400)),
            ("Host: a.example\r\nHost: a.example\r\n", Refused(400)),
            ("Host: a.example\r\nhost: b.example\r\n", Refused(400)),
            ("Host: a.example, b.example\r\n", Refused(400)),
            ("Host: a b\r\n", Refused(400)),
            ("Host: a\tb\r\n", Refused(400)),
            ("Host: u@a.example\r\n", Refused(400)),
            ("Host: a.example:\r\n", Refused(400)),
            ("Host: a.example:x\r\n", Refused(400)),
            ("Host: a.example:-1\r\n", Refused(400)),
            ("Host: a.example:+80\r\n", Refused(400)),
            ("Host: a.example:65536\r\n", Refused(400)),
            ("Host: a.example:80:80\r\n", Refused(400)),
            ("Host: a.example/x\r\n", Refused(400)),
            ("Host: a.example?x\r\n", Refused(400)),
            ("Host: a.example#x\r\n", Refused(400)),
            ("Host: http://a.example\r\n", Refused(400)),
            ("Host: a..example\r\n", Refused(400)),
            ("Host: .a.example\r\n", Refused(400)),
            ("Host: .\r\n", Refused(400)),
            ("Host: :80\r\n", Refused(400)),
            ("Host: a.example..\r\n", Refused(400)),
            ("Host: a%2eexample\r\n", Refused(400)),
            ("Host: a\\b\r\n", Refused(400)),
            ("Host: a'b\r\n", Refused(400)),
            ("Host: \"a.example\"\r\n", Refused(400)),
            ("Host: *\r\n", Refused(400)),
            ("Host: [::1\r\n", Refused(400)),
            ("Host: ::1\r\n", Refused(400)),
            ("Host: [::1%25eth0]\r\n", Refused(400)),
            ("Host: [::g]\r\n", Refused(400)),
            ("Host: [::1]x\r\n", Refused(400)),
            ("Host : a.example\r\n", Refused(400)),
            ("Host\t: a.example\r\n", Refused(400)),
            (" Host: a.example\r\n", Refused(400)),
            ("Hos\u{2011}t: a.example\r\n", Refused(400)),
            ("X-Host: a.example\r\n", Refused(400)),
            ("Host_: a.example\r\n", Refused(400)),
            ("Host: a.example\r\n", Arrives(1)),
            ("Host:a.example\r\n", Arrives(1)),
            ("Host:   a.example  \r\n", Arrives(1)),
            ("HOST: A.EXAMPLE:8080\r\n", Arrives(1)),
            ("Host: a.example.\r\n", Arrives(1)),
            ("Host: a_b.example\r\n", Arrives(1)),
            ("Host: 127.0.0.1\r\n", Arrives(1)),
            ("Host: [::1]:80\r\n", Arrives(1)),
            ("Host: a.example:0\r\n", Arrives(1)),
        ] {
            self.add(lines, format!("GET /public/x HTTP/1.1\r\n{lines}\r\n"), end);
        }
        let host = "GET /public/x HTTP/1.1\r\nHost: \u{e9}.example\r\n\r\n";
        self.add("a host of bytes", host, Refused(400));
        let long = "a".repeat(300);
        self.add("a long host", format!("GET /public/x HTTP/1.1\r\nHost: {long}\r\n\r\n"), Refused(400));
        let two = "GET /public/x HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n";
        self.add("two hosts of 1.0", two, Refused(400));
        let absolute = "GET http://a.example/public/x HTTP/1.1\r\n\r\n";
        self.add("an absolute target without a host", absolute, Refused(400));
        let absolute = "GET http://a.example/public/x HTTP/1.0\r\n\r\n";
        self.add("an absolute target of 1.0 without a host", absolute, Arrives(1));
    }

    fn framing(&mut self) {
        for coding in [
            ",chunked",
            "chunked,",
            "chunked, chunked",
            "gzip, chunked",
            "chunked, gzip",
            "identity",
            "identity, chunked",
            "chunked, identity",
            "gzip",
            "xchunked",
            "chunkedx",
            "chunked;q=1",
            "chunked x",
            "\"chunked\"",
            "chunk",
            "",
            "cow",
            "x, chunked",
            "\u{b}chunked",
            "chun ked",
            "\u{212a}chunked",
            "null",
        ] {
            self.post(&format!("Transfer-Encoding: {coding}"), "0\r\n\r\n", Refused(400));
        }
        for lines in [
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding\t: chunked",
            "Transfer-Encoding\r\n: chunked",
            "Transfer-Encoding:\r\n chunked",
            "Transfer-Encoding: chunked\r\n ,identity",
            " Transfer-Encoding: chunked",
            "X: y\r\n Transfer-Encoding: chunked",
            "Transfer-Encoding: chunked\rX: y",
            "Transfer-Encoding:\0chunked",
        ] {
            self.post(lines, "0\r\n\r\n", Refused(400));
        }
        for coding in ["chunked", "Chunked", "CHUNKED", " chunked ", "\tchunked\t"] {
            self.post(&format!("Transfer-Encoding:{coding}"), "3\r\nabc\r\n0\r\n\r\n", Arrives(1));
        }
        // hyper takes the length away and closes after the answer.
        for lines in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 3",
            "Transfer-Encoding: chunked\r\nContent-Length: 0",
        ] {
            self.post(lines, "3\r\nabc\r\n0\r\n\r\n", Arrives(1));
        }
        self.post("Transfer-Encoding: gzip, chunked\r\nContent-Length: 3", "3\r\nabc\r\n0\r\n\r\n", Refused(400));
        self.add(
            "a coding of 1.0",
            "POST /public/x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused(400),
        );
        self.add(
            "a misspelt coding is none",
            "POST /public/x HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
            Arrives(1),
        );
        for length in [
            "-1",
            "+3",
            "3 3",
            "3,3,4",
            "3, 4",
            "0x3",
            "3.0",
            "3e0",
            "three",
            "",
            "3;",
            "\u{b}3",
            "99999999999999999999",
            "18446744073709551616",
            "3\0",
            "\u{ff13}",
        ] {
            self.post(&format!("Content-Length: {length}"), "abc", Refused(400));
        }
        for lines in [
            "Content-Length: 3\r\nContent-Length: 4",
            "Content-Length: 4\r\nContent-Length: 3",
            "Content-Length : 3",
            "Content-Length\t: 3",
            "Content-Length: 3\r\n 4",
            " Content-Length: 3",
        ] {
            self.post(lines, "abc", Refused(400));
        }
        for lines in [
            "Content-Length: 3",
            "Content-Length:3",
            "Content-Length: 003",
            "Content-Length: 0000000000000000000000003",
            "Content-Length: 3\r\nContent-Length: 3",
            "Content-Length: 3\r\nContent_Length: 4",
            "Content-Length: 3\r\nContent.Length: 4",
            "Content-Length: 3\r\nContentLength: 4",
        ] {
            self.post(lines, "abc", Arrives(1));
        }
        self.post("Content-Length: 3, 3", "abc", Refused(400));
        self.post("X: y", "", Arrives(1));
        self.post("Content-Length: 0", "", Arrives(1));
        self.post("Content-Length: 5", "abc", Refused(408));
        for method in ["GET", "DELETE", "OPTIONS", "PUT", "PATCH"] {
            let head = format!("{method} /public/x HTTP/1.1\r\nHost: a\r\n");
            self.add(method, format!("{head}Content-Length: 3\r\n\r\nabc"), Arrives(1));
            self.add(method, format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), Arrives(1));
        }
    }

    fn chunks(&mut self) {
        for body in [
            "3\r\nabc\r\n0\r\n\r\n",
            "3;a=b\r\nabc\r\n0\r\n\r\n",
            "3;a=\"b;c\"\r\nabc\r\n0;x\r\n\r\n",
            "3 ;a\r\nabc\r\n0\r\n\r\n",
            "03\r\nabc\r\n00\r\n\r\n",
            "A\r\n0123456789\r\n0\r\n\r\n",
            "a\r\n0123456789\r\n0\r\n\r\n",
            "1\r\na\r\n1\r\nb\r\n0\r\n\r\n",
            "0\r\n\r\n",
            "3\r\nabc\r\n0\r\nX-Trailer: y\r\n\r\n",
            "3\r\nabc\r\n0\r\nKeyward-Key-Id: root\r\n\r\n",
            "3\r\nabc\r\n0\r\nContent-Length: 9\r\nHost: b\r\n\r\n",
        ] {
            self.post("Transfer-Encoding: chunked", body, Arrives(1));
        }
        for body in [
            "3\nabc\r\n0\r\n\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\r\nab\r\n0\r\n\r\n",
            "3\r\nabc0\r\n\r\n",
            "0x3\r\nabc\r\n0\r\n\r\n",
            "+3\r\nabc\r\n0\r\n\r\n",
            "-3\r\nabc\r\n0\r\n\r\n",
            " 3\r\nabc\r\n0\r\n\r\n",
            "3\r\rabc\r\n0\r\n\r\n",
            "g\r\nabc\r\n0\r\n\r\n",
            "\r\nabc\r\n0\r\n\r\n",
            ";a=b\r\nabc\r\n0\r\n\r\n",
            "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
            "10000000000000003\r\nabc\r\n0\r\n\r\n",
            "3;a\nb\r\nabc\r\n0\r\n\r\n",
            "3,3\r\nabc\r\n0\r\n\r\n",
            "3\r\nabc\r\n0\r\nX y\r\n\r\n",
            "3\r\nabc\r\n0\r\n\x01: y\r\n\r\n",
            "3\r\nabc\r\n-0\r\n\r\n",
            "3\r\nabc\r\n0\nX: y\r\n\r\n",
        ] {
            self.post("Transfer-Encoding: chunked", body, Refused(400));
        }
        self.post("Transfer-Encoding: chunked", "3\r\nab", Refused(408));
        self.post("Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n", Refused(408));
        self.post("Transfer-Encoding: chunked", "3", Refused(408));
    }

    fn fields(&mut self) {
        for line in [
            "X Y: z",
            "X\t: z",
            "X : z",
            ": z",
            "X",
            "X;Y: z",
            "X(: z",
            "\"X\": z",
            "X\u{e9}: z",
            "X@Y: z",
            "X/Y: z",
            "X: a\0b",
            "X: a\rb",
            "X: a\x7fb",
            "X: a\x01b",
            "X: a\x0bb",
            "X: a\x1bb",
            "X: a\r\n b",
            "X: a\r\n\tb",
            "X: a\r\n  \r\nY: b",
            "\r: x",
            "\0: x",
        ] {
            self.line(line, Refused(400));
        }
        for line in [
            "X:",
            "X: ",
            "X:\ty\t",
            "X: a\tb",
            "X: \u{e9}",
            "X: a\nY: b",
            "X!#$%&'*+-.^_`|~9: z",
            "Range: bytes=0-1",
            "Accept-Encoding: gzip\r\nAccept-Encoding: br",
            "X: 1\r\nX: 2",
            "Cookie: a=b; c=d",
            "Cookie: a=b\r\nCookie: c=d",
            "X: {}",
            "X: () { :; }; echo",
            "X: ${jndi:ldap://a}",
        ] {
            self.line(line, Arrives(1));
        }
        self.add("a line of spaces", "GET /public/x HTTP/1.1\r\nHost: a\r\n  \r\n\r\n", Refused(400));
        self.add("a first line that is folded", "GET /public/x HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n", Refused(400));
        for (expectation, end) in [
            ("100-continue", Arrives(1)),
            ("100-Continue", Arrives(1)),
            ("200-ok", Refused(417)),
            ("", Refused(417)),
            ("100-continue, x", Refused(417)),
            ("100-continue;q=1", Refused(417)),
            ("100-continue\r\nExpect: 100-continue", Refused(417)),
            ("x\r\nExpect: 100-continue", Refused(417)),
        ] {
            self.post(&format!("Expect: {expectation}\r\nContent-Length: 3"), "abc", end);
        }
        self.add(
            "an expectation with a bad key",
            "POST /any/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
            Refused(401),
        );
        for line in [
            "X-Original-URL: /public/admin/x",
            "X-Rewrite-URL: /public/admin/x",
            "X-HTTP-Method-Override: DELETE",
            "X-HTTP-Method: DELETE",
            "X-Method-Override: DELETE",
            "X-Original-Method: DELETE",
            "X_Original_URL: /public/admin/x",
            "X.Rewrite.URL: /public/admin/x",
            "x_http_method_override: DELETE",
            "Proxy: http://evil",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: Basic YTpi",
            "Keep-Alive: timeout=1000",
            "TE: gzip",
            "TE: trailers, deflate",
            "Trailer: Keyward-Key-Id",
            "Upgrade: h2c",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
            "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
            "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\nSec-WebSocket-Version: 13",
            "Connection: upgrade\r\nUpgrade: TLS/1.0",
            "Via: 1.1 other",
            "Forwarded: for=6.6.6.6",
            "X-Forwarded-For: 6.6.6.6",
            "X_Forwarded_For: 6.6.6.6",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: evil",
            "X-Forwarded-Port: 1",
            "X-Forwarded-Prefix: /x",
            "X-Forwarded: for=6.6.6.6",
            "X-Real-IP: 6.6.6.6",
            "X-Request-Id: mine",
            "X-Request-Id: a\r\nX-Request-Id: b",
            "X_Request_Id: mine",
            "Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "Traceparent: junk\r\nTracestate: a=b",
        ] {
            self.line(line, Arrives(1));
        }
    }

    fn connection_options(&mut self) {
        let never = [
            "Authorization",
            "authorization",
            "Host",
            "Content-Length",
            "Content-Type",
            "Cookie",
            "Keyward-Key-Id",
            "keyward_key_id",
            "keyward.flags",
            "keyward~user",
            "KEYWARD-PROJECT",
            "X-Keyward-User",
            "X-Forwarded-For",
            "x_forwarded_for",
            "X-Forwarded-Proto",
            "X-Forwarded-Host",
            "X-Real-IP",
            "Forwarded",
            "Via",
            "X-Request-Id",
            "Traceparent",
            "Tracestate",
        ];
        for name in never {
            for options in [name.to_owned(), format!("close, {name}"), format!("{name},close"), format!(" ,\t{name} ,")]
            {
                self.line(&format!("Connection: {options}"), Refused(400));
            }
            self.line(&format!("Connection: close\r\nConnection: {name}"), Refused(400));
        }
        for options in [
            "close",
            "Close",
            "keep-alive",
            "X-User",
            "close, X-User\r\nX-User: root",
            "TE, close\r\nTE: trailers",
            "",
            ",",
            ",,close",
            "Connection",
            "\"authorization\"",
            "authorization;x",
        ] {
            self.line(&format!("Connection: {options}"), Arrives(1));
        }
    }

    fn identity(&mut self) {
        for name in
            ["Key-Id", "Project", "Environment", "User", "Flags", "Key-Status", "Key-Expires", "Shadow", "Anything"]
        {
            for spelt in [
                format!("Keyward-{name}"),
                format!("keyward_{}", name.replace('-', "_")),
                format!("KEYWARD.{}", name.replace('-', ".")),
                format!("X-Keyward-{name}"),
                format!("x_keyward_{name}"),
                format!("keyward~{name}"),
            ] {
                let request =
                    format!("GET /any/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {{T}}\r\n{spelt}: root\r\n\r\n");
                self.add(&spelt, request, Arrives(1));
            }
            self.line(&format!("Keyward-{name}: root"), Arrives(1));
        }
    }

    fn credentials(&mut self) {
        let mut with = |path: &str, lines: &str, end| {
            self.add(&format!("{path} {lines}"), format!("GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"), end);
        };
        for (lines, end) in [
            ("Authorization: Bearer {T}", Arrives(1)),
            ("authorization: bearer {T}", Arrives(1)),
            ("AUTHORIZATION: BEARER  {T}  ", Arrives(1)),
            ("Authorization: Bearer\t{T}", Refused(401)),
            ("Authorization: Bearer", Refused(401)),
            ("Authorization: Bearer {T}x", Refused(401)),
            ("Authorization: Bearer {T} x", Refused(401)),
            ("Authorization: Bearer {T},x", Refused(401)),
            ("Authorization: Bearer{T}", Refused(401)),
            ("Authorization: {T}", Refused(401)),
            ("Authorization: Basic {T}", Refused(401)),
            ("Authorization: \"Bearer {T}\"", Refused(401)),
            ("Authorization: Bearer \"{T}\"", Refused(401)),
            ("Authorization : Bearer {T}", Refused(400)),
            ("Authorization: Bearer {T}\r\nAuthorization: Bearer {T}", Refused(400)),
            ("Authorization: Bearer {T}\r\nAuthorization: Basic YTpi", Refused(400)),
            ("Authorization: Basic YTpi\r\nAuthorization: Bearer {T}", Refused(400)),
            ("Authorization: Bearer {T}, Bearer {T}", Refused(401)),
            ("Authorization:\r\n Bearer {T}", Refused(400)),
            ("Authorization_: Bearer {T}", Refused(401)),
            ("Proxy-Authorization: Bearer {T}", Refused(401)),
            ("X-Api-Key: {T}", Refused(401)),
            ("Cookie: authorization=Bearer {T}", Refused(401)),
            ("", Refused(401)),
        ] {
            with("/any/x", lines, end);
        }
        for (lines, end) in [
            ("X-Api-Key: {T}", Arrives(1)),
            ("x-api-key:{T}", Arrives(1)),
            ("X-Api-Key: Bearer {T}", Refused(401)),
            ("X-Api-Key: {T}\r\nX-Api-Key: {T}", Refused(400)),
            ("X_Api_Key: {T}", Refused(401)),
            ("X-Api-Key: {T}\r\nAuthorization: Basic YTpi", Arrives(1)),
            ("Authorization: Bearer {T}", Refused(401)),
            ("X-Api-Key:", Refused(401)),
        ] {
            with("/field/x", lines, end);
        }
        for (path, end) in [
            ("/keyrings/comms", Arrives(1)),
            ("/keyrings/comms/", Arrives(1)),
            ("/keyrings/%63omms", Arrives(1)),
            ("/keyrings/other", Refused(403)),
            ("/keyrings/*", Refused(403)),
            ("/keyrings/**", Refused(403)),
            ("/keyrings/%2a", Refused(403)),
            ("/keyrings/comms.read", Refused(403)),
            ("/keyrings/comms%20", Refused(403)),
            ("/keyrings/Comms", Refused(403)),
            ("/keyrings/", Refused(404)),
            ("/any/admin/x", Refused(403)),
            ("/public/admin/x", Refused(403)),
            ("/any/admin", Refused(403)),
            ("/any/%61dmin/", Refused(403)),
            ("/public/x", Arrives(1)),
        ] {
            with(path, "Authorization: Bearer {T}", end);
        }
        with("/any/x?access_token={T}", "X: y", Refused(401));
    }

    fn grpc(&mut self) {
        let mut with = |name: &str, kind: &str, lines: &str, body: &str, end| {
            let head = "POST /any/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {T}";
            self.add(name, format!("{head}\r\nContent-Type: {kind}{lines}\r\n\r\n{body}"), end);
        };
        let chunked = "\r\nTransfer-Encoding: chunked";
        for trailer in [
            "Keyward-Key-Id: root",
            "keyward_user: root",
            "X-Keyward-Flags: **",
            "X-Forwarded-For: 6.6.6.6",
            "Authorization: Bearer x",
            "Host: evil",
            "Content-Length: 9",
            "Transfer-Encoding: chunked",
            "Cookie: a=b",
            "X-Original-URL: /admin",
            "X-Plain: y",
        ] {
            let name = trailer.split(':').next().unwrap_or_default();
            let lines = format!("{chunked}\r\nTrailer: {name}");
            let body = format!("3\r\nabc\r\n0\r\n{trailer}\r\n\r\n");
            with(trailer, "application/grpc", &lines, &body, Arrives(1));
            with(trailer, "application/json", &lines, &body, Arrives(1));
        }
        with("two kinds", "application/grpc\r\nContent-Type: text/plain", "\r\nContent-Length: 3", "abc", Arrives(1));
        with("te", "application/grpc", "\r\nTE: trailers\r\nContent-Length: 3", "abc", Arrives(1));
        with("te", "application/grpc", "\r\nTE: gzip\r\nContent-Length: 3", "abc", Arrives(1));
    }

    fn sizes_and_sequences(&mut self) {
        let get = "GET /public/x HTTP/1.1\r\nHost: a\r\n";
        let long = "a".repeat(10_000);
        self.add("a long target", format!("GET /public/{long} HTTP/1.1\r\nHost: a\r\n\r\n"), Refused(414));
        self.add("a long query", format!("GET /public/x?{long} HTTP/1.1\r\nHost: a\r\n\r\n"), Refused(414));
        self.add("a longer target", format!("GET /{} HTTP/1.1\r\n", long.repeat(7)), Refused(431));
        self.add("a large field", format!("{get}X: {}\r\n\r\n", long.repeat(4)), Refused(431));
        self.add("a large name", format!("{get}{}: x\r\n\r\n", long.repeat(4)), Refused(431));
        self.add("many fields", format!("{get}{}\r\n", "X: y\r\n".repeat(101)), Refused(431));
        self.add("as many fields as may be", format!("{get}{}\r\n", "X: y\r\n".repeat(90)), Arrives(1));
        self.add("many values", format!("{get}X: {}\r\n\r\n", "y, ".repeat(2_000).trim()), Arrives(1));
        self.add("many empty lines", format!("{}{get}\r\n", "\r\n".repeat(50)), Arrives(1));
        self.add("two in a row", format!("{get}\r\n{get}\r\n"), Arrives(2));
        self.add("a second that is bad", format!("{get}\r\nGET x HTTP/1.1\r\nHost: a\r\n\r\n"), Arrives(1));
        self.add("a second after close", format!("{get}Connection: close\r\n\r\n{get}\r\n"), Arrives(1));
        self.add(
            "a second of 1.0",
            "GET /public/x HTTP/1.0\r\nHost: a\r\n\r\nGET /public/x HTTP/1.1\r\nHost: a\r\n\r\n",
            Arrives(1),
        );
        let inner = "GET /public/admin/x HTTP/1.1\r\nHost: a\r\n\r\n";
        let length = inner.len();
        let post = "POST /public/x HTTP/1.1\r\nHost: a\r\n";
        self.add("one inside another", format!("{post}Content-Length: {length}\r\n\r\n{inner}"), Arrives(1));
        self.add("one behind no body", format!("{post}Content-Length: 0\r\n\r\n{inner}"), Arrives(1));
        let both = format!("{post}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}");
        self.add("one behind two lengths", both, Arrives(1));
        let both = format!("{post}Content-Length: 4\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{inner}");
        self.add("one behind no coding", both, Refused(400));
        let hidden = format!("{post}Transfer-Encoding: chunked\r\nX: y\r\n\r\n0\r\nX: \r\n\r\n{inner}");
        self.add("one behind trailers", hidden, Arrives(1));
        let refused = format!("POST /any/x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{inner}");
        self.add("one inside a refused one", refused, Refused(401));
        let star = format!("OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{inner}");
        self.add("one inside the star's", star, Refused(204));
        let unknown = format!("FOO /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{inner}");
        self.add("one inside an unknown method's", unknown, Refused(501));
        let waits = format!(
            "POST /any/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n{inner}"
        );
        self.add("one inside one that waits", waits, Refused(401));
    }
}
