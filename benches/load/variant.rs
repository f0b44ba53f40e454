//! What is measured: proxies that differ in one thing each.

use crate::config::Filter;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// A Pingora proxy with nothing but an upstream.
    Bare,
    /// The same with the timeouts that Phasegate sets on its connections.
    BareTimeouts,
    Phasegate(Scripts),
    /// Phasegate with Proxy-Wasm filters.
    Filters(Filters),
    /// Envoy with the same.
    Envoy(Filters),
}

/// The plugins of a Phasegate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Scripts {
    pub name: &'static str,
    pub count: Count,
    /// The value of `instance`.
    pub instance: &'static str,
}

/// The filters of a Phasegate or an Envoy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Filters {
    pub name: &'static str,
    pub count: Count,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Count {
    None,
    One,
    Six,
}

impl Variant {
    pub const ALL: [Variant; 12] = [
        Variant::Bare,
        Variant::BareTimeouts,
        Variant::Phasegate(Scripts { name: "none", count: Count::None, instance: "reuse" }),
        Variant::Phasegate(Scripts { name: "one", count: Count::One, instance: "reuse" }),
        Variant::Phasegate(Scripts { name: "six", count: Count::Six, instance: "reuse" }),
        Variant::Phasegate(Scripts { name: "one-fresh", count: Count::One, instance: "fresh" }),
        Variant::Phasegate(Scripts { name: "six-fresh", count: Count::Six, instance: "fresh" }),
        Variant::Filters(Filters { name: "filter-one", count: Count::One }),
        Variant::Filters(Filters { name: "filters-six", count: Count::Six }),
        Variant::Envoy(Filters { name: "envoy", count: Count::None }),
        Variant::Envoy(Filters { name: "envoy-filter-one", count: Count::One }),
        Variant::Envoy(Filters { name: "envoy-filters-six", count: Count::Six }),
    ];

    pub fn name(self) -> &'static str {
        match self {
            Variant::Bare => "bare",
            Variant::BareTimeouts => "bare-timeouts",
            Variant::Phasegate(scripts) => scripts.name,
            Variant::Filters(filters) | Variant::Envoy(filters) => filters.name,
        }
    }

    pub fn title(self) -> String {
        match self {
            Variant::Bare => "bare Pingora".into(),
            Variant::BareTimeouts => "bare Pingora with timeouts".into(),
            Variant::Phasegate(Scripts { count: Count::None, .. }) => "Phasegate, no script".into(),
            Variant::Phasegate(Scripts { count, instance, .. }) => format!("{}, `{instance}`", count.of("script")),
            Variant::Filters(Filters { count, .. }) => count.of("Proxy-Wasm filter"),
            Variant::Envoy(Filters { count, .. }) => format!("Envoy, {}", count.of("filter")),
        }
    }

    /// The name of the same proxy without plugins.
    pub fn plain(self) -> Option<&'static str> {
        match self {
            Variant::Bare | Variant::BareTimeouts => None,
            Variant::Phasegate(_) | Variant::Filters(_) => Some("none"),
            Variant::Envoy(_) => Some("envoy"),
        }
    }

    /// How many headers the upstream and the client get from scripts.
    pub fn added_headers(self) -> (usize, usize) {
        match self {
            Variant::Phasegate(Scripts { count: Count::One, .. }) => (1, 0),
            Variant::Phasegate(Scripts { count: Count::Six, .. }) => (3, 2),
            _ => (0, 0),
        }
    }

    /// The headers that the upstream gets from filters.
    pub fn set_headers(self) -> impl Iterator<Item = String> {
        let filters = match self {
            Variant::Filters(filters) | Variant::Envoy(filters) => filters.count.number(),
            _ => 0,
        };
        Filter::chain(filters).map(|filter| filter.header)
    }
}

impl Count {
    pub fn number(self) -> usize {
        match self {
            Count::None => 0,
            Count::One => 1,
            Count::Six => 6,
        }
    }

    fn of(self, what: &str) -> String {
        match self {
            Count::None => format!("no {what}"),
            Count::One => format!("1 {what}"),
            Count::Six => format!("6 {what}s"),
        }
    }
}
