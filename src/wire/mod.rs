//! What holds for HTTP messages whoever handles them: which fields may pass, who the client is,
//! bodies with limits, ids of requests and traces, and the shape of an error.
//!
//! Knows nothing of keys or routes. Called by the data plane, the listeners and the management API.

mod body;
mod client;
mod decoder;
mod failures;
mod fields;
mod framing;
mod place;
mod problem;
mod proxy_header;
mod receiver;
mod request_id;
mod trace;

pub use body::{BrokenOff, Inbound, InboundFault, Transfer};
pub use client::{ClientPrefix, Network, client_address};
pub use decoder::{BadBody, Decoded, Decoder};
pub use failures::{FailureLimit, Failures};
pub use fields::{
    ForbiddenNomination, Seen, Upstreamward, is_decided_here, is_same_field, remove_spellings, strip_request_fields,
    strip_response_fields, strip_trailers, trim_values,
};
pub use framing::{is_chunked_alone, number, one_length};
pub use place::{FieldPlace, Place};
pub use problem::{CONTENT_TYPE as PROBLEM_JSON, Problem, ProblemText};
pub use proxy_header::{NoProxyHeader, ProxyHeader, ProxyTold};
pub use receiver::{Host, Reach, ReceiverUrl, Unreachable, UrlFault};
pub use request_id::{IdSource, RequestId};
pub use trace::TraceParent;
