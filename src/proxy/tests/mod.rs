//! Tests of the whole data plane.
