//! Proxy-Wasm: what is done with the code of filters once, however many filters have it.

use sha2::{Digest, Sha256};

use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_is_in_use_is_neither_fetched_nor_compiled_again() {
    let code = std::fs::read(guests::path("pw_one_header")).unwrap();
    let sha256: String = Sha256::digest(&code).iter().map(|byte| format!("{byte:02x}")).collect();
    let store = Origin::start(move |_| reply(200, code.clone())).await;
    let origin = Origin::saying("passed").await;
    let filter = |name: &str| {
        let remote = format!("{{ url = \"http://{}/filter.wasm\", sha256 = \"{sha256}\" }}", store.addr());
        format!("[[server.local.proxy_wasm]]\nremote = {remote}\nvm_id = \"{name}\"\nconfiguration = \"{name}\"\n")
    };
    // Nothing is kept but what runs; each filter has VMs of its own.
    let config = format!("cache = \"\"\n{}{}{}", proxy_to(origin.addr()), filter("x-one"), filter("x-two"));
    let proxy = Proxy::start(&config);

    assert_eq!(send(http1().get(proxy.url("/"))).await.text(), "passed");
    let received = origin.only();
    assert_eq!((received.header("x-one"), received.header("x-two")), (Some("set"), Some("set")));
    assert_eq!(store.received().len(), 1);
}
