//! Tools that others made to find what is wrong with a server, let loose on the gateway.

mod slowhttptest;
mod testssl;
