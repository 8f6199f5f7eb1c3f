//! Hostile HTTP/2 from either side, through real proxies: client → outbound → mutual TLS → inbound → application.
//!
//! Each test bears the name of the published attack it repeats, or says what it does. Three ways lead in: the outbound
//! proxy's door for its application, the inbound proxy's door in the clear, and the same behind mutual TLS, for a peer that
//! proves who it is and attacks all the same. During each flood somebody else is served on other connections, memory is
//! sampled in both proxies, and there is one record with one fault code for the connection that was ended.

#[cfg(test)]
mod apps;
#[cfg(test)]
mod bombs;
#[cfg(test)]
mod downgrade;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod frames;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod links;
#[cfg(test)]
mod resets;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod upstream;
