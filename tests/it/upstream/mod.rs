//! What stands behind the gateway: TLS, HTTP/2, socket files, several targets, and peers that misbehave.

mod balance;
mod grpc;
mod health;
mod http2;
mod nginx;
mod odd;
mod peer;
mod pool;
mod timeouts;
mod tls;
mod unix;

/// The sum of a counter over the labels that begin so.
fn sum(metrics: &str, series: &str) -> f64 {
    let values = metrics.lines().filter(|line| line.starts_with(series));
    values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}
