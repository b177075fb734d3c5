//! What a route says about the fields of requests and answers.
