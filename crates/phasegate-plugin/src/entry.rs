//! The entry points of a plugin.

use crate::Verdict;
use crate::bindings::exports::phasegate::plugin::wasm_service::Guest;

/// The five entry points. [`export!`](crate::export) implements those that the plugin names; the others fail.
pub trait EntryPoints {
    /// `wasm-main`.
    fn main(config: Option<String>) -> Result<Verdict, String>;

    /// `wasm-main-timeout`.
    fn timeout(_config: Option<String>) -> Result<Verdict, String> {
        not_implemented("wasm-main-timeout")
    }

    /// `wasm-main-ext1`.
    fn ext1(_config: Option<String>) -> Result<Verdict, String> {
        not_implemented("wasm-main-ext1")
    }

    /// `wasm-main-ext2`.
    fn ext2(_config: Option<String>) -> Result<Verdict, String> {
        not_implemented("wasm-main-ext2")
    }

    /// `wasm-main-ext3`.
    fn ext3(_config: Option<String>) -> Result<Verdict, String> {
        not_implemented("wasm-main-ext3")
    }
}

fn not_implemented(name: &str) -> Result<Verdict, String> {
    Err(format!("{name} is not implemented by this plugin"))
}

impl<T: EntryPoints> Guest for T {
    fn wasm_main(config: Option<String>) -> Result<Verdict, String> {
        T::main(config)
    }

    fn wasm_main_timeout(config: Option<String>) -> Result<Verdict, String> {
        T::timeout(config)
    }

    fn wasm_main_ext1(config: Option<String>) -> Result<Verdict, String> {
        T::ext1(config)
    }

    fn wasm_main_ext2(config: Option<String>) -> Result<Verdict, String> {
        T::ext2(config)
    }

    fn wasm_main_ext3(config: Option<String>) -> Result<Verdict, String> {
        T::ext3(config)
    }
}

/// Exports functions as the entry points of the plugin: `main`, which every plugin has, and any of `timeout`, `ext1`,
/// `ext2`, `ext3`. Each is a `fn(Option<String>) -> Result<Verdict, String>`.
///
/// ```
/// # use phasegate_plugin::{Verdict, export, host};
/// export!(main: work, timeout: give_up);
///
/// fn work(_config: Option<String>) -> Result<Verdict, String> {
///     Ok(Verdict::Ok)
/// }
///
/// fn give_up(config: Option<String>) -> Result<Verdict, String> {
///     host::sleep(config.and_then(|ms| ms.parse().ok()).ok_or("the configuration is a number of milliseconds")?);
///     Ok(Verdict::Error)
/// }
/// ```
///
/// All five are exported whatever is named here, as the WIT world wants it. Their names therefore also go into the custom
/// section `phasegate:entry-points`, comma-separated, where the host sees that a configuration is for an entry point
/// that is not there.
#[macro_export]
macro_rules! export {
    (main: $main:path $(, $entry:ident: $function:path)* $(,)?) => {
        const _: () = {
            struct Plugin;

            impl $crate::EntryPoints for Plugin {
                fn main(config: ::std::option::Option<::std::string::String>)
                    -> ::std::result::Result<$crate::Verdict, ::std::string::String> {
                    $main(config)
                }
                $(fn $entry(config: ::std::option::Option<::std::string::String>)
                    -> ::std::result::Result<$crate::Verdict, ::std::string::String> {
                    $function(config)
                })*
            }

            const NAMES: &str = concat!("wasm-main" $(, ",wasm-main-", stringify!($entry))*);

            #[used]
            #[cfg_attr(target_family = "wasm", unsafe(link_section = "phasegate:entry-points"))]
            static ENTRY_POINTS: [u8; NAMES.len()] = match NAMES.as_bytes().first_chunk() {
                Some(bytes) => *bytes,
                None => unreachable!(),
            };

            // Other linkers refuse the names of the exports; a test on the machine itself needs none.
            #[cfg(target_family = "wasm")]
            $crate::bindings::export_wasm_server!(Plugin with_types_in $crate::bindings);
            #[cfg(not(target_family = "wasm"))]
            const _: fn(::std::option::Option<::std::string::String>)
                -> ::std::result::Result<$crate::Verdict, ::std::string::String> = <Plugin as $crate::EntryPoints>::main;
        };
    };
}
