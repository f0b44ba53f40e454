//! Proxy-Wasm filters and services.

use std::num::NonZeroUsize;
use std::time::Duration;

use toml::Spanned;

use super::{EntryConfig, Limits, keys_of, read_entry_config};
use crate::config::Span;
use crate::config::keys::{self, Level};
use crate::config::leaf::{EnvValue, HttpUrl, Name, Sha256, Size};
use crate::config::model::{FailurePolicy, Instances};
use crate::config::reader::{FromTable, Reader};

pub struct Filter {
    pub span: Span,
    pub name: Option<Name>,
    pub wasm_path: Option<Spanned<String>>,
    pub remote: Option<Remote>,
    /// The keys `wasm_path` and `remote` that are there.
    pub code_keys: Vec<Spanned<&'static str>>,
    pub root_id: Option<String>,
    pub vm_id: Option<String>,
    pub configuration: Option<EntryConfig>,
    pub vm_configuration: Option<EntryConfig>,
    pub failure_policy: Option<FailurePolicy>,
    pub instances: Option<Spanned<Instances>>,
    pub env: Vec<(Spanned<String>, Spanned<EnvValue>)>,
    /// Variables of the environment of Phasegate.
    pub host_env: Vec<Spanned<String>>,
    pub allowed_capabilities: Vec<Spanned<String>>,
    pub limits: FilterLimits,
    pub allow_on_headers_stop_iteration: bool,
    /// The keys about streams that are there.
    pub stream_keys: Vec<Spanned<&'static str>>,
    pub is_open: bool,
}

impl FromTable for Filter {
    const LEVEL: &'static Level = &keys::FILTER;

    fn read(reader: &mut Reader) -> Self {
        Filter {
            span: reader.span(),
            name: reader.plain("name"),
            wasm_path: reader.leaf("wasm_path"),
            remote: reader.table("remote"),
            code_keys: keys_of(reader, ["wasm_path", "remote"]),
            root_id: reader.plain("root_id"),
            vm_id: reader.plain("vm_id"),
            configuration: read_entry_config(reader, "configuration"),
            vm_configuration: read_entry_config(reader, "vm_configuration"),
            failure_policy: reader.plain("failure_policy"),
            instances: reader.leaf("instances"),
            env: reader.named_leaves("env"),
            host_env: reader.table("allow").map(|allow: Allow| allow.env).unwrap_or_default(),
            allowed_capabilities: reader.leaves("allowed_capabilities").unwrap_or_default(),
            limits: reader.table("limits").unwrap_or_default(),
            allow_on_headers_stop_iteration: reader.plain("allow_on_headers_stop_iteration").unwrap_or(false),
            stream_keys: keys_of(reader, ["allow_on_headers_stop_iteration"]),
            is_open: reader.plain("is_open").unwrap_or(true),
        }
    }
}

pub struct Remote {
    pub span: Span,
    pub url: Option<HttpUrl>,
    pub sha256: Option<Sha256>,
    pub retries: Option<u32>,
    pub timeout_ms: Option<Duration>,
}

impl FromTable for Remote {
    const LEVEL: &'static Level = &keys::REMOTE;

    fn read(reader: &mut Reader) -> Self {
        Remote {
            span: reader.span(),
            url: reader.required("url").map(Spanned::into_inner),
            sha256: reader.required("sha256").map(Spanned::into_inner),
            retries: reader.plain("retries"),
            timeout_ms: reader.plain("timeout_ms"),
        }
    }
}

#[derive(Default)]
pub struct FilterLimits {
    pub common: Limits,
    pub buffer: Option<Size>,
    pub callouts: Option<NonZeroUsize>,
    /// The keys about streams that are there.
    pub stream_keys: Vec<Spanned<&'static str>>,
}

impl FromTable for FilterLimits {
    const LEVEL: &'static Level = &keys::FILTER_LIMITS;

    fn read(reader: &mut Reader) -> Self {
        FilterLimits {
            common: Limits::read(reader),
            buffer: reader.plain("buffer"),
            callouts: reader.plain("callouts"),
            stream_keys: keys_of(reader, ["wall_ms", "buffer"]),
        }
    }
}

struct Allow {
    env: Vec<Spanned<String>>,
}

impl FromTable for Allow {
    const LEVEL: &'static Level = &keys::FILTER_ALLOW;

    fn read(reader: &mut Reader) -> Self {
        Allow { env: reader.leaves("env").unwrap_or_default() }
    }
}

/// A filter without streams.
pub struct Service {
    pub filter: Filter,
    pub singleton: Option<bool>,
}

impl FromTable for Service {
    const LEVEL: &'static Level = &keys::SERVICE;

    fn read(reader: &mut Reader) -> Self {
        Service { filter: Filter::read(reader), singleton: reader.plain("singleton") }
    }
}
