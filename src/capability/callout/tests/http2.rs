//! Servers of HTTP/2, frame by frame.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];

struct Frames(TcpStream);

impl Frames {
    async fn accept(listener: &TcpListener) -> Frames {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        Frames(stream)
    }

    /// The next frame of this kind: its stream; none at the end of the connection.
    async fn next(&mut self, kind: u8) -> Option<u32> {
        let next = async {
            loop {
                let mut head = [0; 9];
                self.0.read_exact(&mut head).await.ok()?;
                let [a, b, c, this, _, stream @ ..] = head;
                let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
                self.0.read_exact(&mut payload).await.ok()?;
                if this == kind {
                    return Some(u32::from_be_bytes(stream));
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), next).await.expect("a frame comes, or the end")
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    /// So many streams at once.
    async fn permit(&mut self, most: u8) {
        self.send(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, most]).await;
    }

    /// With status 200 and nothing more.
    async fn answer(&mut self, stream: u32) {
        self.send(HEADERS, 0b101, stream, &[0x88]).await;
    }
}

async fn listen() -> (TcpListener, Capabilities) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let capabilities = capabilities(listener.local_addr().unwrap());
    (listener, capabilities)
}

fn post() -> ClusterCall {
    ClusterCall { method: Method::POST, body: "body".into(), ..get("/") }
}

pub fn grpc_call() -> GrpcCall {
    let metadata = HeaderMap::new();
    GrpcCall { cluster: "two".into(), service: "s.S".into(), method: "M".into(), metadata, timeout: None }
}

#[tokio::test]
async fn a_server_that_permits_no_stream_for_a_while() {
    let (listener, capabilities) = listen().await;
    let started = Instant::now();
    let pause = Duration::from_millis(100);
    let early = Arc::new(AtomicUsize::new(0));
    let count = early.clone();
    tokio::spawn(async move {
        loop {
            let mut client = Frames::accept(&listener).await;
            count.fetch_add(usize::from(started.elapsed() < pause), Ordering::Relaxed);
            tokio::spawn(async move {
                client.permit(0).await;
                tokio::time::sleep_until((started + pause).into()).await;
                client.permit(1).await;
                while let Some(stream) = client.next(HEADERS).await {
                    client.answer(stream).await;
                }
            });
        }
    });
    let calls = (0..5).map(|_| call(&capabilities, "two", post()));
    for result in futures::future::join_all(calls).await {
        assert_eq!(result.unwrap().status, StatusCode::OK);
    }
    assert!(started.elapsed() >= pause);
    assert_eq!(early.load(Ordering::Relaxed), 1, "connections before it permits any");
}

#[tokio::test]
async fn a_server_that_permits_nothing_for_long_gets_another_connection() {
    let cases = [None, Some(0)].map(|permits| async move {
        let (listener, capabilities) = listen().await;
        let server = async {
            let mut stuck = Frames::accept(&listener).await;
            if let Some(most) = permits {
                stuck.permit(most).await;
            }
            let mut client = Frames::accept(&listener).await;
            client.permit(9).await;
            for _ in 0..5 {
                let stream = client.next(HEADERS).await.unwrap();
                client.answer(stream).await;
            }
            (stuck, client)
        };
        let within = |ms| ClusterCall { timeout: Some(Duration::from_millis(ms)), ..post() };
        let others = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            futures::future::join_all((0..5).map(|_| call(&capabilities, "two", within(2000)))).await
        };
        let (_, others, _) = tokio::join!(call(&capabilities, "two", within(2500)), others, server);
        assert!(others.iter().all(Result::is_ok), "{permits:?}: {others:?}");
    });
    tokio::time::timeout(Duration::from_secs(20), futures::future::join_all(cases)).await.unwrap();
}

/// Whether the server says goodbye before it has permitted anything, or nothing at all.
#[tokio::test]
async fn a_request_that_has_not_left_before_the_end_is_sent_again() {
    const SETTINGS_FRAME: [u8; 9] = [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];
    const GOAWAY_FRAME: [u8; 17] = [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let no_stream = [0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];
    for (first, then) in [
        ([&SETTINGS_FRAME[..], &GOAWAY_FRAME].concat(), vec![]),
        (no_stream.to_vec(), GOAWAY_FRAME.to_vec()),
        (no_stream.to_vec(), vec![]),
        (vec![], vec![]),
    ] {
        let (listener, capabilities) = listen().await;
        let server = async {
            let mut ends = Frames::accept(&listener).await;
            ends.0.write_all(&first).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            ends.0.write_all(&then).await.unwrap();
            ends.0.shutdown().await.unwrap();
            assert_eq!(ends.next(HEADERS).await, None, "nothing has been permitted");
            let mut client = Frames::accept(&listener).await;
            client.permit(9).await;
            let stream = client.next(HEADERS).await.unwrap();
            client.answer(stream).await;
            client
        };
        let both = async { tokio::join!(call(&capabilities, "two", post()), server) };
        let (result, _) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
        assert_eq!(result.unwrap().status, StatusCode::OK, "{first:?} {then:?}");
    }
}

#[tokio::test]
async fn calls_that_wait_go_as_soon_as_the_server_has_said_how_many_may() {
    let (listener, capabilities) = listen().await;
    let server = async {
        let mut client = Frames::accept(&listener).await;
        client.permit(9).await;
        let mut streams = Vec::new();
        for _ in 0..9 {
            streams.push(client.next(HEADERS).await.unwrap());
        }
        for stream in streams {
            client.answer(stream).await;
        }
        client
    };
    let calls = futures::future::join_all((0..9).map(|_| call(&capabilities, "two", post())));
    let (results, _client) = tokio::join!(calls, server);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

/// Those that have waited for its connection as well.
#[tokio::test]
async fn a_server_that_is_down() {
    let (listener, capabilities) = listen().await;
    drop(listener);
    let calls = (0..50).map(|_| call(&capabilities, "two", post()));
    for result in futures::future::join_all(calls).await {
        assert!(matches!(result, Err(CalloutError::Net(NetError::Connect(..)))));
    }
}

#[tokio::test]
async fn a_request_that_has_waited_in_vain_is_not_sent() {
    let (listener, capabilities) = listen().await;
    let late = ClusterCall { timeout: Some(Duration::from_millis(50)), ..post() };
    let server = async {
        let mut client = Frames::accept(&listener).await;
        assert_eq!(client.next(HEADERS).await, None, "the connection ends");
    };
    let (result, ()) = tokio::join!(call(&capabilities, "two", late), server);
    assert!(matches!(result, Err(CalloutError::Timeout { .. })));
}

#[tokio::test]
async fn a_goaway_is_followed_by_another_connection() {
    let (listener, capabilities) = listen().await;
    let server = async {
        let mut first = Frames::accept(&listener).await;
        first.permit(9).await;
        let stream = first.next(HEADERS).await.unwrap();
        first.answer(stream).await;
        first.next(HEADERS).await.unwrap();
        // Nothing after the first stream has been looked at.
        first.send(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]).await;
        let mut second = Frames::accept(&listener).await;
        second.permit(9).await;
        let stream = second.next(HEADERS).await.unwrap();
        second.answer(stream).await;
        (first, second)
    };
    let calls = async {
        for _ in 0..2 {
            assert_eq!(call(&capabilities, "two", post()).await.unwrap().status, StatusCode::OK);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(calls, server) }).await.unwrap();
}

#[tokio::test]
async fn a_server_that_refuses_everything() {
    let (listener, capabilities) = listen().await;
    let server = async {
        let mut client = Frames::accept(&listener).await;
        client.permit(9).await;
        for _ in 0..MOST_TRIES {
            let stream = client.next(HEADERS).await.unwrap();
            client.send(RST_STREAM, 0, stream, &REFUSED_STREAM).await;
        }
        client
    };
    let (result, mut client) = tokio::join!(call(&capabilities, "two", post()), server);
    let error = result.unwrap_err();
    assert!(matches!(error, CalloutError::Unanswered { reset: Some(7), .. }), "{error}");
    // The connection is as good as before.
    let next = async {
        let stream = client.next(HEADERS).await.unwrap();
        client.answer(stream).await;
    };
    let (result, ()) = tokio::join!(call(&capabilities, "two", post()), next);
    assert_eq!(result.unwrap().status, StatusCode::OK);
}

/// Also what its first try had taken of the message.
#[tokio::test]
async fn a_call_of_grpc_that_is_refused_is_sent_again() {
    let (listener, capabilities) = listen().await;
    let server = async {
        let mut client = Frames::accept(&listener).await;
        client.permit(9).await;
        let stream = client.next(DATA).await.unwrap();
        client.send(RST_STREAM, 0, stream, &REFUSED_STREAM).await;
        let stream = client.next(DATA).await.unwrap();
        client.answer(stream).await;
        client
    };
    let (result, _client) = tokio::join!(grpc::unary(&capabilities, grpc_call(), "message".into()), server);
    // It has answered, if not in gRPC.
    assert_eq!(result.unwrap_err().message, "the server answered 200 OK, and not in gRPC");
}

#[tokio::test]
async fn a_stream_outlives_that_its_connection_gets_no_other_call() {
    let (listener, capabilities) = listen().await;
    let capabilities = Arc::new(capabilities);
    let (stream, mut events) = grpc::stream(&capabilities, grpc_call());
    let mut client = Frames::accept(&listener).await;
    client.permit(9).await;
    let number = client.next(HEADERS).await.unwrap();
    let head = [&[0x88, 0x5f, 16][..], b"application/grpc"].concat();
    client.send(HEADERS, 0b100, number, &head).await;
    assert!(matches!(events.recv().await, Some(Event::InitialMetadata(_))));

    let late = ClusterCall { timeout: Some(Duration::from_millis(50)), ..get("/") };
    call(&capabilities, "two", late).await.unwrap_err();
    let (next, mut other) = tokio::join!(call(&capabilities, "two", post()), async {
        let mut other = Frames::accept(&listener).await;
        other.permit(9).await;
        let stream = other.next(HEADERS).await.unwrap();
        other.answer(stream).await;
        other
    });
    assert_eq!(next.unwrap().status, StatusCode::OK);

    stream.send(b"message", true).unwrap();
    assert_eq!(client.next(DATA).await, Some(number));
    let trailers = [&[0x40, 11][..], b"grpc-status", &[1], b"0"].concat();
    client.send(HEADERS, 0b101, number, &trailers).await;
    assert!(matches!(events.recv().await, Some(Event::TrailingMetadata(_))));
    assert!(matches!(events.recv().await, Some(Event::Closed(status)) if status.code == 0));
    assert_eq!(client.next(DATA).await, None, "nobody holds the connection");
    other.permit(9).await;
}

/// What the server says about the connection is no answer.
#[tokio::test]
async fn a_connection_that_is_alive_and_answers_nothing_is_replaced() {
    let (listener, capabilities) = listen().await;
    let server = async {
        let mut hung = Frames::accept(&listener).await;
        hung.permit(9).await;
        assert!(hung.next(HEADERS).await.is_some());
        hung.send(PING, 0, 0, &[0; 8]).await;
        assert!(hung.next(PING).await.is_some());
        let mut client = Frames::accept(&listener).await;
        client.permit(9).await;
        let stream = client.next(HEADERS).await.unwrap();
        client.answer(stream).await;
        (hung, client)
    };
    let calls = async {
        let late = ClusterCall { timeout: Some(Duration::from_millis(200)), ..post() };
        call(&capabilities, "two", late).await.unwrap_err();
        assert_eq!(call(&capabilities, "two", post()).await.unwrap().status, StatusCode::OK);
    };
    tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(calls, server) }).await.unwrap();
}
