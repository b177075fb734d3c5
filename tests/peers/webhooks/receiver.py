"""`python -m webhooks.receiver CHAIN KEY SECRETS STATUS`: prints its port, then one line of JSON for each
message that is posted to it over TLS.

SECRETS is a file with one `whsec_…` a line, and the library of Standard Webhooks says which of them verifies;
STATUS is a file with what is answered. Both are read for every message.
"""

import http.server
import json
import ssl
import sys
import threading

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

chain, key, secrets, answer = sys.argv[1:]
lock = threading.Lock()


def verified_by(body, fields):
    """The number of the first secret that the message verifies with, from 1; none where it does with none."""
    with open(secrets, encoding="ascii") as lines:
        for number, secret in enumerate(lines.read().split(), 1):
            try:
                Webhook(secret).verify(body, fields)
                return number
            except WebhookVerificationError:
                pass
    return None


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        fields = {name.lower(): value for name, value in self.headers.items()}
        with lock:
            with open(answer, encoding="ascii") as text:
                status = int(text.read())
            heard = {
                "path": self.path,
                "id": fields.get("webhook-id"),
                "signatures": len(fields.get("webhook-signature", "").split()),
                "verified_by": verified_by(body, fields),
                "message": json.loads(body),
                "status": status,
            }
            print(json.dumps(heard), flush=True)
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("location", f"https://{self.headers['host']}/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_args):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(chain, key)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(server.server_address[1], flush=True)
server.serve_forever()
