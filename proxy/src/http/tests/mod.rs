//! Raw clients and scripted upstreams around a handler that forwards everything; bytes are compared, not parsed.

mod connections;
mod ends;
mod floods;
mod h1_messages;
mod h2_streams;
mod links;
mod rest;
mod small_frames;
mod support;
