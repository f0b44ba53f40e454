//! The command line: arguments, exit codes, what is said where.

use std::net::TcpListener;
use std::process::Command;

use super::support::*;

#[test]
fn it_knows_its_version() {
    let output = Output::of(phasegate().arg("--version"));
    assert_eq!((output.code, output.stdout.trim()), (Some(0), concat!("phasegate ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn wrong_arguments_are_a_2() {
    for arguments in [&[][..], &["frobnicate"], &["run"], &["check", "-c"], &["run", "-c", "a", "b"]] {
        let output = Output::of(phasegate().args(arguments));
        assert_eq!(output.code, Some(2), "{arguments:?}");
        assert!(output.stderr.contains("--help"), "{arguments:?}: {}", output.stderr);
    }
}

#[test]
fn a_configuration_is_checked_without_opening_a_port() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let config = format!("[[server]]\nlisten = [{{ addr = '{addr}' }}]\n[[server.local]]\npath = '/'\necho = true\n");

    let output = check(&config);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    assert!(output.stdout.ends_with("phasegate.toml: ok\n"), "{}", output.stdout);

    let output = refused(&config);
    assert_eq!(output.code, Some(1));
    let expected = format!("error: cannot listen on {addr}: Address already in use");
    assert!(output.stderr.contains(&expected), "{}", output.stderr);
}

#[test]
fn a_server_that_ends_by_itself_is_a_1() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("phasegate.toml");
    std::fs::write(&file, format!("threads = 1024\n{}", server("path = '/'\necho = true"))).unwrap();
    let mut limited = Command::new("sh");
    // No cache: a module takes files as well.
    limited.args(["-c", "ulimit -n 200; exec \"$0\" run -c \"$1\""]).arg(phasegate().get_program()).arg(file);
    let output = Output::of(limited.env("XDG_CACHE_HOME", folder.path()));
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("\nerror: the server has ended by itself"), "{}", output.stderr);
}

#[test]
fn a_name_that_does_not_resolve_is_shown_in_its_place() {
    let config = format!(
        "\n[upstream.web]\nservers = [{{ addr = 'nobody.invalid:80' }}]\n{}",
        server("path = '/'\nproxy_pass = 'web'")
    );
    let output = refused(&config);
    assert_eq!(output.code, Some(1));
    for text in
        ["upstream `web`: cannot resolve `nobody.invalid:80`: ", "phasegate.toml:3:21", "phasegate.toml: 1 error"]
    {
        assert!(output.stderr.contains(text), "{text} in {}", output.stderr);
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let module = guests::path("bare");
    let config = format!(
        "thread = 2\n[[server]]\nlisten = [{{ addr = '127.0.0.1:0' }}]\n[[server.local]]\npath = '/'\nproxy_pass = 'nowhere'\n{}",
        script("wasm_access", &module, "")
    );
    for output in [check(&config), refused(&config)] {
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
        for place in ["phasegate.toml:1:1", "phasegate.toml:6:", "phasegate.toml:8:"] {
            assert!(output.stderr.contains(place), "{place} in {}", output.stderr);
        }
        assert!(output.stderr.trim_end().ends_with("phasegate.toml: 3 errors"), "{}", output.stderr);
    }

    let output = Output::of(phasegate().args(["check", "-c", "no/such.toml"]));
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("cannot read the configuration file no/such.toml"), "{}", output.stderr);
}
