//! Sets the request header that its configuration names, and does nothing else.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root { name: Rc::default() }));
}}

struct Root {
    name: Rc<str>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let name = self.get_plugin_configuration().and_then(|configuration| String::from_utf8(configuration).ok());
        self.name = name.unwrap_or_default().into();
        !self.name.is_empty()
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(OneHeader { name: self.name.clone() }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct OneHeader {
    name: Rc<str>,
}

impl Context for OneHeader {}

impl HttpContext for OneHeader {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        self.set_http_request_header(&self.name, Some("set"));
        Action::Continue
    }
}
