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

use crate::case::Case;
use crate::support::Wat;

/// All cases, by their groups.
pub fn all() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("bodies", bodies::cases()),
        ("callouts", callouts::cases()),
        ("examples", examples::cases()),
        ("foreign", foreign::cases()),
        ("grpc", grpc::cases()),
        ("headers", headers::cases()),
        ("lifecycle", lifecycle::cases()),
        ("local_response", local_response::cases()),
        ("memory", memory::cases()),
        ("properties", properties::cases()),
        ("shared", shared::cases()),
        ("streams", streams::cases()),
        ("text", text::cases(&Wat::new())),
    ]
}
