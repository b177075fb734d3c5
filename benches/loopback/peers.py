"""The proxies: how each is set up for the same work, started and stopped.

The same work: HTTP/1.1 and HTTP/2 with TLS 1.3 (X25519, AES-128-GCM, an ECDSA certificate on P-256) and
HTTP/1.1 in clear text; a bearer token that must be one of the keys, else 401; the token taken off;
X-Forwarded-For put on; HTTP/1.1 to one service over connections that are kept. Bodies are passed on as
they come. No session cache: sessions are resumed by tickets, which every proxy here sends by itself.
"""

import json
import os
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

SERVICE = 19100
OPEN_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


class Peer:
    """One proxy. Ports are its own, so that one that ends late disturbs nobody."""

    name = ""
    clear = 0
    tls = 0

    def __init__(self, inputs, folder: Path):
        self.inputs = inputs
        self.folder = folder / self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = None

    def missing(self):
        """What has to be there first; none if it is."""
        return None

    def prepare(self):
        """Makes once what does not depend on the number of workers."""

    def command(self, workers):
        raise NotImplementedError

    def start(self, workers=1, cores="0", nice=-5):
        self.free_ports()
        log = (self.folder / "log.txt").open("ab")
        command = ["taskset", "-c", cores] + self.command(workers)
        if os.geteuid() == 0:
            command = ["nice", "-n", str(nice)] + command
        # A group of its own: what it starts is stopped with it.
        self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, process_group=0)
        log.close()
        for port in (self.clear, self.tls):
            self.await_port(port)
        self.await_ready()
        time.sleep(0.2)

    def await_ready(self):
        """Waits for what comes after listening."""

    def await_port(self, port):
        for _ in range(600):
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended at once: see {self.folder}/log.txt")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"{self.name} never listened on {port}: see {self.folder}/log.txt")

    def free_ports(self):
        for port in (self.clear, self.tls):
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) != 0:
                        break
                time.sleep(0.1)
            else:
                raise RuntimeError(f"port {port} is taken by another program")

    def stop(self):
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        for kind, patience in ((signal.SIGTERM, 8), (signal.SIGKILL, 8)):
            try:
                os.killpg(process.pid, kind)
            except ProcessLookupError:
                return
            try:
                process.wait(patience)
                return
            except subprocess.TimeoutExpired:
                pass


class Nginx(Peer):
    """A map of tokens in clear: it has no SHA-512."""

    name = "nginx"
    clear, tls = 18300, 18301
    access_log = False

    def missing(self):
        return None if shutil.which("nginx") else "nginx is not installed"

    def prepare(self):
        entries = "".join(f'"Bearer {text}" 1;\n' for text in self.inputs.tokens())
        (self.folder / "map.conf").write_text(entries)

    def command(self, workers):
        at, given = self.folder, self.inputs
        # Both buffer their lines, as one does who writes so many.
        log = f"{at}/access.log combined buffer=64k flush=1s" if self.access_log else "off"
        text = f"""
worker_processes {workers}; pid {at}/pid; error_log {at}/error.log crit; worker_rlimit_nofile {OPEN_FILES}; daemon off;
events {{ worker_connections {OPEN_FILES - 500}; }}
http {{
  access_log {log}; tcp_nodelay on; server_tokens off; client_max_body_size 10m;
  keepalive_requests 1000000000; keepalive_timeout 75s;
  client_body_temp_path {at}/t1; proxy_temp_path {at}/t2; fastcgi_temp_path {at}/t3; uwsgi_temp_path {at}/t4; scgi_temp_path {at}/t5;
  map_hash_max_size 1048576; map_hash_bucket_size 256;
  map $http_authorization $known {{ default 0; include {at}/map.conf; }}
  upstream service {{ server 127.0.0.1:{SERVICE}; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 75s; }}
  ssl_certificate {given.chain}; ssl_certificate_key {given.private}; ssl_protocols TLSv1.3; ssl_session_cache off;
  ssl_session_tickets on; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; ssl_ecdh_curve X25519;
  server {{
    listen 127.0.0.1:{self.clear} backlog=8192 reuseport;
    listen 127.0.0.1:{self.tls} ssl http2 backlog=8192 reuseport;
    http2_max_concurrent_streams 256;
    location / {{
      if ($known = 0) {{ return 401; }}
      proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header Authorization "";
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_request_buffering off; proxy_max_temp_file_size 0; proxy_buffer_size 16k; proxy_buffers 8 16k;
    }}
    location = /s0 {{
      if ($known = 0) {{ return 401; }}
      proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection upgrade;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Host $host; proxy_set_header Authorization "";
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_request_buffering off; proxy_max_temp_file_size 0; proxy_buffer_size 16k; proxy_buffers 8 16k;
    }}
  }}
}}
"""
        (at / "nginx.conf").write_text(text)
        return ["nginx", "-c", str(at / "nginx.conf")]


class NginxLog(Nginx):
    """The same with its access log, to a file."""

    name = "nginx+log"
    clear, tls = 18310, 18311
    access_log = True


class Haproxy(Peer):
    """SHA-512 of each token and a map of hashes: what Keyward does."""

    name = "haproxy"
    clear, tls = 18400, 18401

    def missing(self):
        return None if shutil.which("haproxy") else "haproxy is not installed"

    def prepare(self):
        (self.folder / "map").write_text("".join(f"{text.upper()} 1\n" for text in self.inputs.hashes()))

    def command(self, workers):
        at = self.folder
        rules = f"""
  http-request set-var(txn.k) req.hdr(authorization),word(2,' ')
  http-request deny deny_status 401 unless {{ var(txn.k),sha2(512),hex,map_str({at}/map) -m found }}
  http-request del-header authorization
  option forwardfor
  default_backend service
"""
        text = f"""
global
  nbthread {workers}
  maxconn {OPEN_FILES // 2 - 100}
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-bind-curves X25519
  tune.ssl.cachesize 0
defaults
  mode http
  timeout client 75s
  timeout server 75s
  timeout connect 5s
  timeout http-keep-alive 75s
  http-reuse always
  no log
frontend clear
  bind 127.0.0.1:{self.clear} backlog 8192
{rules}
frontend tls
  bind 127.0.0.1:{self.tls} ssl crt {self.inputs.folder}/haproxy.pem alpn h2,http/1.1 backlog 8192
{rules}
backend service
  server s1 127.0.0.1:{SERVICE} pool-max-conn 2048
"""
        (at / "haproxy.cfg").write_text(text)
        return ["haproxy", "-f", str(at / "haproxy.cfg"), "-db"]


class Envoy(Peer):
    """The api_key_auth filter; tokens in clear."""

    name = "envoy"
    clear, tls = 18500, 18501

    def __init__(self, inputs, folder):
        super().__init__(inputs, folder)
        found = sorted(folder.glob("envoy-venv/lib/python*/site-packages/envoy/_bin/envoy"))
        self.program = str(found[0]) if found else shutil.which("envoy")

    def missing(self):
        return None if self.program else "envoy is not there (make bench-peers)"

    def prepare(self):
        for name, workers in (("one", 1),):
            self.write(name)

    def write(self, name):
        types = "type.googleapis.com/envoy.extensions"
        keys = {
            "@type": f"{types}.filters.http.api_key_auth.v3.ApiKeyAuth",
            "credentials": [{"key": text, "client": f"c{at}"} for at, text in enumerate(self.inputs.tokens())],
            "key_sources": [{"header": "Authorization"}],
            "forwarding": {"hide_credentials": True},
        }
        manager = {
            "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "codec_type": "AUTO",
            "use_remote_address": True,
            "http2_protocol_options": {"max_concurrent_streams": 256},
            "common_http_protocol_options": {"idle_timeout": "75s"},
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "service", "timeout": "0s"}}],
                    }
                ]
            },
            "http_filters": [
                {"name": "api_key_auth", "typed_config": keys},
                {"name": "router", "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"}},
            ],
        }
        tls = {
            "name": "tls",
            "typed_config": {
                "@type": f"{types}.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_params": {
                        "tls_minimum_protocol_version": "TLSv1_3",
                        "tls_maximum_protocol_version": "TLSv1_3",
                        "ecdh_curves": ["X25519"],
                    },
                    "tls_certificates": [
                        {
                            "certificate_chain": {"filename": str(self.inputs.chain)},
                            "private_key": {"filename": str(self.inputs.private)},
                        }
                    ],
                },
            },
        }
        address = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        chain = {"filters": [{"name": "http", "typed_config": manager}]}
        listener = lambda name, port, extra: {
            "name": name,
            "address": address(port),
            "tcp_backlog_size": 8192,
            "filter_chains": [chain | extra],
        }
        most = {"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}
        bootstrap = {
            "static_resources": {
                "listeners": [
                    listener("clear", self.clear, {}),
                    listener("tls", self.tls, {"transport_socket": tls}),
                ],
                "clusters": [
                    {
                        "name": "service",
                        "connect_timeout": "5s",
                        "circuit_breakers": {"thresholds": [most]},
                        "load_assignment": {
                            "cluster_name": "service",
                            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(SERVICE)}}]}],
                        },
                    }
                ],
            }
        }
        (self.folder / "envoy.json").write_text(json.dumps(bootstrap))

    def command(self, workers):
        options = ["--concurrency", str(workers), "--disable-hot-restart", "-l", "error"]
        return [self.program, "-c", str(self.folder / "envoy.json")] + options


class Pingora(Peer):
    """A small proxy on Pingora: see pingora/src/main.rs. SHA-512 of each token, a set of hashes."""

    name = "pingora"
    clear, tls = 18600, 18601

    def __init__(self, inputs, folder):
        super().__init__(inputs, folder)
        self.program = folder / "pingora-target/release/pingora-peer"

    def missing(self):
        return None if self.program.exists() else "the Pingora peer is not built (make bench-peers)"

    def command(self, workers):
        given = self.inputs
        numbers = [workers, self.clear, self.tls, SERVICE]
        return [str(self.program)] + [str(part) for part in numbers + [given.keys, given.chain, given.private]]


class Keyward(Peer):
    """As it is shipped: metrics, timers, the gate, identity fields and the follower of the store are on."""

    name = "keyward"
    clear, tls = 18200, 18201
    ops = 18202
    access_log = False
    binary = None

    def missing(self):
        return None if self.binary and Path(self.binary).exists() else f"{self.binary} is not built"

    def await_ready(self):
        for _ in range(600):
            try:
                if urllib.request.urlopen(f"http://127.0.0.1:{self.ops}/readyz", timeout=1).status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise RuntimeError(f"{self.name} never got ready: see {self.folder}/serve.log")

    def text(self, workers):
        given = self.inputs
        return f"""
[gateway]
listen = ["127.0.0.1:{self.tls}"]
listen_cleartext = ["127.0.0.1:{self.clear}"]
workers = {workers}
access_log = {str(self.access_log).lower()}
[gateway.tls]
certificates = [{{ chain = "{given.chain}", key = "{given.private}" }}]
min_version = "1.3"
[ops]
listen = "127.0.0.1:{self.ops}"
[store.sqlite]
path = "keyward.db"
[upstreams.service]
targets = ["http://127.0.0.1:{SERVICE}"]
[[routes]]
name = "all"
path = "/{{*rest}}"
any_flags = ["bench.use"]
upstream = "service"
[[routes]]
name = "websockets"
path = "/s0"
any_flags = ["bench.use"]
upstream = "service"
upgrades = ["websocket"]
"""

    def prepare(self):
        config = self.folder / "prepare.toml"
        config.write_text(self.text(1))
        done = self.folder / f"imported-{self.inputs.count}"
        if done.exists():
            return
        for old in self.folder.glob("*"):
            if old != config:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        run = lambda *words: subprocess.run(
            [self.binary, *words, "-c", config.name], cwd=self.folder, check=True, stdout=subprocess.DEVNULL
        )
        run("init")
        run("keys", "import", "--project", "bench", "--flag", "bench.use", "--tokens", str(self.inputs.keys))
        done.touch()

    def command(self, workers):
        config = self.folder / f"keyward-{workers}.toml"
        config.write_text(self.text(workers))
        command = [self.binary, "serve", "-c", config.name]
        # Beside the configuration every line would wake what watches that.
        log = "log/access.log" if self.access_log else "serve.log"
        (self.folder / "log").mkdir(exist_ok=True)
        words = " ".join(shlex.quote(str(word)) for word in command)
        return ["bash", "-c", f"cd {shlex.quote(str(self.folder))} && exec {words} > {log} 2>&1"]


class KeywardLog(Keyward):
    """The same with its access log, to a file."""

    name = "keyward+log"
    clear, tls, ops = 18210, 18211, 18212
    access_log = True


class KeywardOther(Keyward):
    """Another build of it, for what a change is worth."""

    name = "other"
    clear, tls, ops = 18220, 18221, 18222


ALL = {peer.name: peer for peer in (Nginx, NginxLog, Haproxy, Envoy, Pingora, Keyward, KeywardLog, KeywardOther)}
