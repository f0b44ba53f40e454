//! Building a response.

use crate::http::Response;

impl Response {
    /// A response with this status, without headers and body.
    pub fn new(status: u16) -> Self {
        Self { status, headers: None, body: None }
    }

    /// Appends a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.get_or_insert_default().push((name.to_owned(), value.into()));
        self
    }

    /// Sets the body and appends its `content-type`.
    #[must_use]
    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self.header("content-type", content_type)
    }

    /// Sets a body of plain text.
    #[must_use]
    pub fn text(self, body: &str) -> Self {
        self.body("text/plain; charset=utf-8", body)
    }
}
