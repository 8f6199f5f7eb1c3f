//! Static mode: the examples as they are, but for ports and paths, with curl, openssl and grpcio as clients.

#[cfg(test)]
mod chain;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod support;
#[cfg(test)]
mod translate;
