//! Hostile HTTP/1 from either side, through real proxies: client → outbound → mutual TLS → inbound → application.
//!
//! Each test bears the name of the published attack it repeats. Every case asserts four things: the answer and whether the
//! connection closes, one record with one fault code at the proxy that found the fault, the exact bytes that reached the
//! application, and that somebody else is served afterwards.

#[cfg(test)]
mod bodies;
#[cfg(test)]
mod cost;
#[cfg(test)]
mod crowds;
#[cfg(test)]
mod descriptors;
#[cfg(test)]
mod fields;
#[cfg(test)]
mod heads;
#[cfg(test)]
mod hosts;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod meter;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod pool;
#[cfg(test)]
mod responses;
#[cfg(test)]
mod server;
#[cfg(test)]
mod tunnels;
