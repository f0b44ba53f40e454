//! Arguments that nobody sane would pass, from a seed.

use phasegate_plugin::http::{Method, Request, Response};
use phasegate_plugin::socket::SocketType;

/// SplitMix64.
pub struct Random {
    pub state: u64,
    /// Host and port of a server that is there.
    pub server: String,
}

const TEXTS: [&str; 36] = [
    "",
    " ",
    "a",
    "x-a",
    "X-A",
    "host",
    "content-length",
    "Transfer-Encoding",
    "connection",
    "upgrade",
    ":path",
    "a b",
    "a\r\nb: c",
    "\0",
    "\u{7f}",
    "é",
    "🦀",
    "\u{feff}",
    "-1",
    "18446744073709551616",
    "NaN",
    "GET",
    "CONNECT",
    "GE T",
    "/",
    "//",
    "/../..",
    "/a?b=c#d",
    "*",
    "http://[::1",
    "http://127.0.0.1:1/",
    "https://user:password@localhost:99999/",
    "ws://127.0.0.1:1/",
    "127.0.0.1:1",
    "[::]:0",
    "no.such.host.invalid:80",
];

impl Random {
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    pub fn number(&mut self) -> u64 {
        let any = self.next();
        self.one_of(&[0, 0, 1, 2, 3, 127, 65_536, 1 << 32, u64::MAX, u64::MAX - 1, i64::MAX as u64, 1 << 63, any])
    }

    /// Milliseconds for what waits: so few that it ends.
    pub fn moment(&mut self) -> u64 {
        self.one_of(&[0, 1, 2, 20])
    }

    pub fn text(&mut self) -> String {
        let text = self.one_of(&TEXTS);
        match self.below(40) {
            0 => text.repeat(self.below(20_000) as usize),
            1 => "k".repeat((16 << 10) + self.below(2) as usize),
            2 => "v".repeat((1 << 20) + self.below(2) as usize),
            3 => char::from_u32(self.below(0x11_0000) as u32).unwrap_or('x').to_string(),
            _ => text.to_owned(),
        }
    }

    /// Few, so that calls meet what others have left.
    pub fn key(&mut self) -> String {
        if self.below(8) == 0 { self.text() } else { self.one_of(&["a", "b", "c", "d"]).to_owned() }
    }

    pub fn bytes(&mut self) -> Vec<u8> {
        let length = self.one_of(&[0, 1, 100, 10_000, 100_000]);
        vec![self.next() as u8; length]
    }

    pub fn texts(&mut self) -> Vec<String> {
        let count = self.one_of(&[0, 1, 3, 300]);
        (0..count).map(|_| self.one_of(&TEXTS).to_owned()).collect()
    }

    pub fn pairs(&mut self) -> Vec<(String, String)> {
        let count = self.one_of(&[0, 1, 3, 300]);
        (0..count).map(|_| (self.one_of(&TEXTS).to_owned(), self.one_of(&TEXTS).to_owned())).collect()
    }

    pub fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(2) == 0).then(|| make(self))
    }

    pub fn request(&mut self) -> Request {
        let methods =
            [Method::Get, Method::Post, Method::Put, Method::Delete, Method::Patch, Method::Head, Method::Options];
        Request {
            method: self.one_of(&methods),
            uri: if self.below(2) == 0 { format!("http://{}/", self.server) } else { self.text() },
            headers: if self.below(2) == 0 { Vec::new() } else { self.pairs() },
            params: self.pairs(),
            body: self.maybe(Self::bytes),
        }
    }

    pub fn response(&mut self) -> Response {
        Response {
            status: self.one_of(&[0, 99, 100, 101, 199, 200, 204, 304, 404, 599, 600, u16::MAX]),
            headers: self.maybe(Self::pairs),
            body: self.maybe(Self::bytes),
        }
    }

    pub fn socket_type(&mut self) -> SocketType {
        self.one_of(&[SocketType::Tcp, SocketType::Tcp, SocketType::Ssl, SocketType::Quic])
    }

    pub fn address(&mut self) -> String {
        if self.below(2) == 0 { self.server.clone() } else { self.text() }
    }

    /// Often that of the client.
    pub fn fd(&mut self) -> u64 {
        if self.below(2) == 0 { phasegate_plugin::host::curr_fd() } else { self.number() }
    }
}
