//! What is compared, a module for each concern. Every host function of HTTP filters is in at least one.

mod bodies;
mod callouts;
mod examples;
mod foreign;
mod grpc;
mod headers;
mod lifecycle;
mod local_response;
mod memory;
mod properties;
mod shared;
mod streams;
mod text;
