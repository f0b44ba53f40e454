//! Header maps as filters know them: names in lower case, pseudo-headers among them and first (RFC 9113, section 8.3).

use std::borrow::Cow;

use crate::exchange::{RequestHeader, ResponseHeader};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::abi::Status;

/// A map that can be read.
#[derive(Clone, Copy)]
pub enum Fields<'a> {
    /// With its `:scheme`.
    Request(&'a RequestHeader, &'a str),
    Response(&'a ResponseHeader),
    Plain(&'a HeaderMap),
}

/// A map that can be changed.
pub enum FieldsMut<'a> {
    Request(&'a mut RequestHeader, &'a mut Target),
    Response(&'a mut ResponseHeader),
    Plain(&'a mut HeaderMap),
}

/// Of a request, beside its header.
#[derive(Clone, Default)]
pub struct Target {
    /// `:scheme`, when a filter has set another.
    pub scheme: Option<String>,
    /// Whether a filter has set the host or the path, by which requests are routed.
    pub moved: bool,
}

impl<'a> Fields<'a> {
    /// Calls for every pair, in order.
    pub fn each(self, mut pair: impl FnMut(&[u8], &[u8])) {
        match self {
            Fields::Request(request, scheme) => {
                if let Some(authority) = authority(request) {
                    pair(b":authority", authority);
                }
                pair(b":path", request.raw_path());
                pair(b":method", request.method.as_str().as_bytes());
                pair(b":scheme", scheme.as_bytes());
                let upgrades = request.headers.contains_key(header::UPGRADE);
                let shown = |name: &HeaderName| *name != header::HOST && !is_hidden(name, upgrades);
                for (name, value) in request.headers.iter().filter(|(name, _)| shown(name)) {
                    pair(name.as_str().as_bytes(), value.as_bytes());
                }
            }
            Fields::Response(response) => {
                pair(b":status", response.status.as_str().as_bytes());
                let shows =
                    |name: &HeaderName| *name != header::CONNECTION || response.headers.contains_key(header::UPGRADE);
                for (name, value) in response.headers.iter().filter(|(name, _)| shows(name)) {
                    pair(name.as_str().as_bytes(), value.as_bytes());
                }
            }
            Fields::Plain(headers) => plain(headers, pair),
        }
    }

    pub fn count(self) -> u32 {
        let mut count = 0;
        self.each(|_, _| count += 1);
        count
    }

    /// The first value of a name.
    pub fn get(self, name: &[u8]) -> Option<Cow<'a, [u8]>> {
        let borrowed = match (self, name) {
            (Fields::Request(request, scheme), _) => match name {
                b":authority" => return authority(request).map(Cow::Borrowed),
                b":path" => request.raw_path(),
                b":method" => request.method.as_str().as_bytes(),
                b":scheme" => scheme.as_bytes(),
                name if name.eq_ignore_ascii_case(b"host") => return authority(request).map(Cow::Borrowed),
                name => return field(&request.headers, name),
            },
            (Fields::Response(response), b":status") => {
                return Some(Cow::Owned(response.status.as_str().as_bytes().to_vec()));
            }
            (Fields::Response(response), name) => return field(&response.headers, name),
            (Fields::Plain(headers), name) => return field(headers, name),
        };
        Some(Cow::Borrowed(borrowed))
    }

    /// All values of a name, as one.
    pub fn joined(self, name: &str) -> Option<Vec<u8>> {
        let headers = match self {
            Fields::Request(request, _) => &request.headers,
            Fields::Response(response) => &response.headers,
            Fields::Plain(headers) => headers,
        };
        if name.starts_with(':') || (name.eq_ignore_ascii_case("host") && matches!(self, Fields::Request(..))) {
            return self.get(name.to_ascii_lowercase().as_bytes()).map(Cow::into_owned);
        }
        let values: Vec<_> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        if values.is_empty() { None } else { Some(values.join(&b',')) }
    }
}

/// What belongs to the connection and not to the request (RFC 9110, section 7.6.1): filters do not see it, as in Envoy.
fn is_hidden(name: &HeaderName, upgrades: bool) -> bool {
    match *name {
        header::TRANSFER_ENCODING => true,
        header::CONNECTION => !upgrades,
        _ => matches!(name.as_str(), "keep-alive" | "proxy-connection"),
    }
}

fn plain(headers: &HeaderMap, mut pair: impl FnMut(&[u8], &[u8])) {
    for (name, value) in headers {
        pair(name.as_str().as_bytes(), value.as_bytes());
    }
}

fn field<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<Cow<'a, [u8]>> {
    let value = headers.get(std::str::from_utf8(name).ok()?)?;
    Some(Cow::Borrowed(value.as_bytes()))
}

/// `:authority` by its old name.
fn authority(request: &RequestHeader) -> Option<&[u8]> {
    request.headers.get(header::HOST).map(HeaderValue::as_bytes)
}

impl FieldsMut<'_> {
    /// # Errors
    /// When name or value are not valid, or there are too many.
    pub fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), Status> {
        if self.set_pseudo(name, value)? {
            return Ok(());
        }
        let (name, value) = checked(name, value)?;
        if self.is_framing(&name) { Ok(()) } else { self.append(name, value) }
    }

    /// Leaves one value of the name.
    ///
    /// # Errors
    /// As [`FieldsMut::add`].
    pub fn replace(&mut self, name: &[u8], value: &[u8]) -> Result<(), Status> {
        if self.set_pseudo(name, value)? {
            return Ok(());
        }
        let (name, value) = checked(name, value)?;
        if self.is_framing(&name) {
            return Ok(());
        }
        match self {
            FieldsMut::Request(request, _) => request.insert_header(name, value),
            FieldsMut::Response(response) => response.insert_header(name, value),
            FieldsMut::Plain(headers) => {
                headers.try_insert(name, value).map_err(|_| Status::BadArgument)?;
                return Ok(());
            }
        }
        .map_err(|_| Status::BadArgument)
    }

    /// Pseudo-headers stay: a message is none without them.
    pub fn remove(&mut self, name: &[u8]) {
        let Ok(name) = HeaderName::from_bytes(name) else { return };
        if self.is_framing(&name) {
            return;
        }
        match self {
            // `:authority` by its old name.
            FieldsMut::Request(..) if name == header::HOST => {}
            FieldsMut::Request(request, _) => drop(request.remove_header(&name)),
            FieldsMut::Response(response) => drop(response.remove_header(&name)),
            FieldsMut::Plain(headers) => drop(headers.remove(name)),
        }
    }

    /// Puts these in the place of all that there are, but for pseudo-headers that are not among them.
    ///
    /// # Errors
    /// As [`FieldsMut::add`]; then the headers are as they were.
    pub fn set(&mut self, pairs: &[(&[u8], &[u8])]) -> Result<(), Status> {
        // On a copy, which takes their place when all has gone well.
        match self {
            FieldsMut::Request(request, target) => {
                let (mut header, mut aside) = ((*request).clone(), (*target).clone());
                FieldsMut::Request(&mut header, &mut aside).set_all(pairs)?;
                (**request, **target) = (header, aside);
            }
            FieldsMut::Response(response) => {
                let mut header = (*response).clone();
                FieldsMut::Response(&mut header).set_all(pairs)?;
                **response = header;
            }
            FieldsMut::Plain(headers) => {
                let mut map = (*headers).clone();
                FieldsMut::Plain(&mut map).set_all(pairs)?;
                **headers = map;
            }
        }
        Ok(())
    }

    fn set_all(&mut self, pairs: &[(&[u8], &[u8])]) -> Result<(), Status> {
        let mut plain = Vec::with_capacity(pairs.len());
        for (name, value) in pairs {
            if !self.set_pseudo(name, value)? {
                plain.push(checked(name, value)?);
            }
        }
        plain.retain(|(name, _)| !self.is_framing(name));
        self.clear();
        plain.into_iter().try_for_each(|(name, value)| self.append(name, value))
    }

    fn clear(&mut self) {
        let names: Vec<HeaderName> = match self {
            FieldsMut::Request(request, _) => request.headers.keys().cloned().collect(),
            FieldsMut::Response(response) => response.headers.keys().cloned().collect(),
            FieldsMut::Plain(headers) => return headers.clear(),
        };
        // Those that were not shown stay.
        let upgrades = names.contains(&header::UPGRADE);
        for name in names.into_iter().filter(|name| !is_hidden(name, upgrades)) {
            self.remove(name.as_str().as_bytes());
        }
    }

    /// How a message is framed is the proxy's to say: what a filter says of it goes nowhere.
    fn is_framing(&self, name: &HeaderName) -> bool {
        *name == header::TRANSFER_ENCODING && !matches!(self, FieldsMut::Plain(_))
    }

    fn append(&mut self, name: HeaderName, value: HeaderValue) -> Result<(), Status> {
        let appended = match self {
            FieldsMut::Request(request, _) => request.append_header(name, value).is_ok(),
            FieldsMut::Response(response) => response.append_header(name, value).is_ok(),
            FieldsMut::Plain(headers) => headers.try_append(name, value).is_ok(),
        };
        if appended { Ok(()) } else { Err(Status::BadArgument) }
    }

    /// Whether it was a pseudo-header.
    fn set_pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<bool, Status> {
        match self {
            FieldsMut::Request(request, target) => match name {
                b":path" => {
                    set_path(request, value).ok_or(Status::BadArgument)?;
                    target.moved = true;
                }
                b":method" => {
                    let method = Method::from_bytes(value).map_err(|_| Status::BadArgument)?;
                    // The client would get a body that it does not expect, or wait for one that does not come.
                    if (method == Method::HEAD) != (request.method == Method::HEAD) {
                        return Err(Status::BadArgument);
                    }
                    request.set_method(method);
                }
                b":scheme" => {
                    target.scheme = Some(std::str::from_utf8(value).map_err(|_| Status::BadArgument)?.to_owned())
                }
                name if name == b":authority" || name.eq_ignore_ascii_case(b"host") => {
                    set_authority(request, value).ok_or(Status::BadArgument)?;
                    target.moved = true;
                }
                _ => return not_pseudo(name),
            },
            FieldsMut::Response(response) if name == b":status" => {
                let status = StatusCode::from_bytes(value).map_err(|_| Status::BadArgument)?;
                // The client would wait for another response behind one that it takes for interim.
                if status.is_informational() && status != response.status {
                    return Err(Status::BadArgument);
                }
                response.set_status(status).map_err(|_| Status::BadArgument)?;
            }
            _ => return not_pseudo(name),
        }
        Ok(true)
    }
}

fn not_pseudo(name: &[u8]) -> Result<bool, Status> {
    if name.starts_with(b":") { Err(Status::BadArgument) } else { Ok(false) }
}

fn checked(name: &[u8], value: &[u8]) -> Result<(HeaderName, HeaderValue), Status> {
    let name = HeaderName::from_bytes(name).map_err(|_| Status::BadArgument)?;
    let value = HeaderValue::from_bytes(value).map_err(|_| Status::BadArgument)?;
    Ok((name, value))
}

fn set_path(request: &mut RequestHeader, path: &[u8]) -> Option<()> {
    if !path.starts_with(b"/") && path != b"*" {
        return None;
    }
    request.set_uri(PathAndQuery::try_from(path).ok()?.into());
    Some(())
}

fn set_authority(request: &mut RequestHeader, value: &[u8]) -> Option<()> {
    let authority = Authority::try_from(value).ok().filter(|authority| !authority.as_str().contains('@'))?;
    request.insert_header(header::HOST, authority.as_str()).ok()
}
