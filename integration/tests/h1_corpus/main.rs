//! HTTP/1 through two sidecars is what it is without them: the exchanges of `integration/corpus/h1`, compared byte for
//! byte at the server and at the client.

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod judge;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod run;
#[cfg(test)]
mod script;
#[cfg(test)]
mod transcript;
