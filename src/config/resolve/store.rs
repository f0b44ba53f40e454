use std::time::Duration;

use toml::Spanned;

use super::Context;
use crate::config::leaf::{RedisUrl, StoreKind};
use crate::config::model::{RedisStore, Store};
use crate::config::{Diagnostic, schema};

/// For a call of the store.
const TIMEOUT: Duration = Duration::from_secs(1);

impl Context<'_> {
    pub fn store(&mut self, store: schema::Store) -> Store {
        let kind = store.kind.as_ref().map(|kind| *kind.get_ref()).unwrap_or_default();
        match kind {
            StoreKind::Memory => {
                self.belong_elsewhere(&store.redis_keys, "redis");
                store.size.map_or_else(Store::default, |size| Store::Memory { size: size.0 })
            }
            StoreKind::Redis => {
                self.belong_elsewhere(&store.memory_keys, "memory");
                if let (Some(kind), false) = (&store.kind, store.redis_keys.iter().any(|key| *key.get_ref() == "url")) {
                    let missing = Diagnostic::error(kind.span(), "`kind = \"redis\"` without `url`");
                    self.diagnostics.push_absent(missing.help("add `url = \"redis://127.0.0.1:6379\"`"));
                }
                Store::Redis(RedisStore {
                    url: store.url.map(|RedisUrl(url)| url).unwrap_or_default(),
                    prefix: store.prefix.unwrap_or_else(|| "phasegate:".to_owned()),
                    timeout: store.timeout_ms.unwrap_or(TIMEOUT),
                })
            }
        }
    }

    fn belong_elsewhere(&mut self, keys: &[Spanned<&'static str>], kind: &str) {
        for key in keys {
            let name = key.get_ref();
            let message = format!("`{name}` is for a store of the kind \"{kind}\"");
            let help = format!("remove it, or write `kind = \"{kind}\"`");
            self.error(Diagnostic::error(key.span(), message).help(help));
        }
    }
}
