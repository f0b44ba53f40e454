//! Why the two differ: each reason is a row of docs/proxy-wasm.md, by what stands in its first column, with the cases that
//! differ for it beyond what a rule says.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::{cases, rules, sections};

macro_rules! reasons {
    ($($name:ident => $row:literal, [$($case:literal),* $(,)?];)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason {
            $($name,)*
        }

        impl Reason {
            const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// The row that gives it.
            fn row(self) -> &'static str {
                match self {
                    $(Reason::$name => $row,)*
                }
            }

            fn cases(self) -> &'static [&'static str] {
                match self {
                    $(Reason::$name => &[$($case),*],)*
                }
            }
        }
    };
}

reasons! {
    // What the proxy underneath does not give.
    RequestTrailers =>
        "`proxy_on_request_trailers` is called only for what a filter before has added, and trailers of requests do not reach the upstream",
        [
            "hold_a_request_body_with_trailers", "hold_trailers", "in_request_trailers",
            "trap_on_request_trailers_closed", "trap_on_request_trailers_open", "request_trailers_resumed_by_tick",
            "close_request_in_request_trailers", "close_response_in_request_trailers",
        ];
    ResponseTrailers =>
        "trailers of responses are those of HTTP/2, from the upstream to the client; HTTP/1.1 loses them", [];
    BodyOfAnotherLength =>
        "a filter that edits a body and leaves the old `content-length` breaks its message: it ends early, or the \
         connection is closed; remove the header, as for Envoy",
        ["shorten_a_body_with_a_length"];
    // Differences from Envoy.
    StreamEnd => "a stream's end",
        ["trap_on_done_closed", "trap_on_done_open", "trap_on_log_closed", "trap_on_log_open"];
    AnyRange => "`proxy_set_buffer_bytes` in the middle of a buffer",
        [
            "replace_the_middle_of_request_body", "replace_the_middle_of_response_body", "insert_of_request_body",
            "insert_of_response_body", "replace_the_end_of_request_body", "replace_the_end_of_response_body",
        ];
    MissingMap => "a header of a map that is not there", [];
    Readable => "headers and trailers beside their own callbacks, and properties of them",
        [
            "maps_in_request_body", "maps_in_response_headers", "maps_in_response_body", "maps_in_response_trailers",
            "maps_in_log", "maps_in_done", "maps_in_delete", "maps_in_context_create", "maps_in_log_without_trailers",
            "request_in_response_headers", "none_in_response_headers",
        ];
    StaleBuffer => "`FOREIGN_FUNCTION_ARGUMENTS` where there are none", [];
    OthersPaused => "a VM that traps while others of its streams are paused",
        [
            "trap_on_tick_closed", "trap_on_tick_open", "trap_on_http_call_response_closed",
            "trap_on_http_call_response_open",
        ];
    ContinueUnheld => "`proxy_continue_stream` of what is not held",
        ["edit_another_stream", "continue_the_request_in_the_request", "continue_the_response_in_the_response"];
    Crash =>
        "`proxy_send_local_response` in `on_done`, `proxy_close_stream` in `on_log`, a gRPC call of a cluster without a \
         name", [];
    HeadMethod => "`:method` between HEAD and another", ["make_it_a_head"];
    FailOpen => "`failure_policy` `open`",
        [
            "http_body_panics_open", "trap_on_request_headers_open", "trap_on_request_body_open",
            "trap_on_response_headers_open", "trap_on_response_body_open", "trap_on_response_trailers_open",
        ];
    FailBeforeHead => "a filter that fails while it holds a body of which nothing was sent", ["http_body_panics"];
    ContinueAndPause => "`proxy_continue_stream` in the same callback that then pauses", ["continue_and_pause"];
    LocalStatus => "a local response with a status that is none",
        ["status_0", "status_99", "status_100", "status_1000", "status_negative"];
    LocalWithoutBody => "a local response of 204 or 304 with a body", ["no_content", "not_modified"];
    LocalLineBreak => "line breaks in a header of a local response", ["a_line_break_in_a_local_header"];
    LocalHeaders => "a local response with headers that cannot be sent", ["with_its_own_status"];
    HeaderOrder => "the order of headers, and of several values of one name", [];
    WrongHeader => "header names and values that cannot be sent, in the other functions",
        [
            "add_an_empty_name", "add_an_unknown_pseudo_header", "a_line_break_in_a_value", "a_nul_in_a_value",
            "a_space_in_a_name", "a_status_that_is_none", "a_line_break_in_a_value_of_a_response",
        ];
    AddedPseudo => "pseudo-headers that are added", ["add_pseudo_headers"];
    RemovedPseudo => "pseudo-headers that are removed",
        [
            "remove_the_path", "remove_the_method", "remove_the_authority", "remove_the_scheme",
            "set_pairs_without_pseudo_headers", "set_no_pairs", "set_pairs_of_zero_bytes", "remove_the_status",
            "set_response_pairs_without_status",
        ];
    NoMap => "pairs that are no map, or more than 1024, in `proxy_set_header_map_pairs`",
        ["set_pairs_that_are_none", "many_pairs"];
    ExceedingPiece => "the piece with which a body exceeds `limits.buffer`", ["response_over_the_limit"];
    GrownBody => "a body that its filter makes larger than `limits.buffer`", ["growing_over_the_limit"];
    NestedProperty => "a property of several names that a filter has set", ["own_properties"];
    Legacy => "`node`, `cluster_name` and others without `xds`",
        ["legacy_in_request_headers", "legacy_in_response_headers", "legacy_in_log", "properties_of_the_root"];
    Names => "`xds.route_name`, `.virtual_host_name`, `.listener_direction`, `.node`, `.upstream_host_metadata`",
        ["xds_in_request_headers", "xds_in_response_headers", "xds_in_log"];
    Metadata => "`metadata` that filters of Envoy have set", ["envoy_filter_metadata", "dynamic_metadata"];
    FilterState => "`set_envoy_filter_state`", ["set_envoy_filter_state"];
    Expressions => "`expr_create`, `expr_evaluate`, `expr_delete`", ["expressions"];
    OwnErrors => "a response for an upstream that gives none", ["the_origin_resets"];
    Date => "`response.total_size` in `on_log`", ["response_in_log"];
    BodylessPost => "a POST without a body, in HTTP/1.1",
        ["call_with_trailers_and_no_body", "set_request_pairs", "end_of_an_empty_body"];
    CallTrailers => "trailers of `proxy_http_call`",
        ["call_with_trailers", "call_h2_with_trailers", "call_with_trailers_and_no_body"];
    GrpcStatus => "a gRPC call that ends without a status",
        ["unary_of_no_grpc", "unary_too_late", "unary_is_reset", "stream_is_reset"];
    GrpcMessage => "the message of `proxy_get_status` after a gRPC call",
        [
            "unary_of_http_500", "unary_of_no_grpc", "unary_too_late", "unary_is_reset", "unary_without_an_answer",
            "stream_is_reset", "stream_of_http_500",
        ];
    GrpcMetadata => "trailing metadata of a gRPC stream without messages", ["stream_fails_at_once", "stream_is_reset"];
    GrpcMessages => "a gRPC call with two answers", ["unary_with_two_answers"];
    MetricTwice => "ids of metrics", [];
    NegativeGauge => "a gauge below 0", ["metrics"];
    StartsTwice => "a plugin that starts", ["call_in_configure"];
    StartsAnew => "a VM that `failure_policy` `reload` starts anew", ["trap_and_reload"];
    Allocator => "an allocator that traps, or calls a function that it may not call",
        ["allocator_traps", "allocator_calls_the_host"];
    EarlyLog => "what a guest logs before it is known for what: `_start`, its allocator",
        ["abi_0_1_0", "allocator_logs"];
}

/// Whether a case has a reason to differ.
pub fn is_known(case: &str) -> bool {
    Reason::ALL.iter().any(|reason| reason.cases().contains(&case))
}

/// The first columns of the tables under a heading.
fn rows(document: &str, heading: &str) -> Vec<String> {
    let section = document.split("\n## ").find(|section| section.starts_with(heading)).expect("the heading is there");
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | ")).map(|(cell, _)| cell);
    cells.filter(|cell| !cell.starts_with('|')).map(str::to_owned).collect()
}

#[test]
fn each_reason_is_in_the_documentation_and_has_a_case() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/proxy-wasm.md");
    let document = fs::read_to_string(path).unwrap();
    let underneath = rows(&document, "What the proxy underneath does not give");
    let differences = rows(&document, "Differences from Envoy");
    for reason in Reason::ALL {
        let row = reason.row();
        assert!([&underneath, &differences].iter().any(|rows| rows.iter().any(|there| there == row)), "no row: {row}");
    }
    for row in &differences {
        assert!(Reason::ALL.iter().any(|reason| reason.row() == row), "no case: {row}");
    }
    let mut used: BTreeSet<_> = Reason::ALL.iter().filter(|reason| !reason.cases().is_empty()).copied().collect();
    let mut names = BTreeSet::new();
    for (group, cases) in cases::all() {
        used.extend(cases.iter().filter_map(|case| case.crashes));
        names.extend(cases.iter().map(|case| case.name));
        let recorded = fs::read_to_string(crate::recording(group)).unwrap();
        used.extend(sections(&recorded).into_iter().flat_map(|(_, section)| rules::apply(section).1));
    }
    let unused: Vec<_> = Reason::ALL.iter().filter(|reason| !used.contains(reason)).collect();
    assert!(unused.is_empty(), "no case: {unused:?}");
    let unknown: Vec<_> =
        Reason::ALL.iter().flat_map(|reason| reason.cases()).filter(|case| !names.contains(*case)).collect();
    assert!(unknown.is_empty(), "no cases: {unknown:?}");
}
