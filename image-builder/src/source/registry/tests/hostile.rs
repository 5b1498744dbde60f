//! Registries that do not do what they should.

use super::server::{Then, raw};
use super::*;
use crate::store::LayerStore;

type Evil = fn(usize, &Seen, &Stored) -> Option<Reply>;

/// The image from a registry with a flaw in its answers about `part`.
fn pull_flawed(part: &str, evil: Evil, limits: Limits) -> (Server, Result<Vec<Vec<u8>>>) {
    let stored = stored();
    let part = part.replace("LAYER", &stored.layers[1]);
    let known = stored.clone();
    let server = flawed(&stored, &part, move |n, seen| evil(n, seen, &known));
    let result = pull_all(&server, no_credentials(), limits);
    if let Ok(layers) = &result {
        assert!((0..2).all(|i| layers[i] == stored.layer(i)), "other bytes");
    }
    (server, result)
}

/// The head of an answer with the whole second layer, and the layer up to a byte.
fn cut(stored: &Stored, end: usize, then: Then) -> Reply {
    let Reply { bytes, .. } = reply("200 OK", "", stored.layer(1));
    let head = bytes.len() - stored.layer(1).len();
    raw(&bytes[..head + end], then)
}

#[test]
fn asks_as_the_spec_says() {
    let stored = stored();
    let server = flawed(&stored, "manifests", |_, _| None);
    pull_all(&server, no_credentials(), limits()).unwrap();
    let seen = server.seen();
    assert_eq!(seen[0].path, "/v2/x/manifests/latest");
    for part in
        ["oci.image.index.v1+json", "oci.image.manifest.v1", "manifest.list.v2+json", "manifest.v2+json"]
    {
        assert!(seen[0].header("accept").unwrap().contains(part), "{part}");
    }
    for request in &seen {
        assert_eq!(request.header("accept-encoding"), Some("identity"), "{request:?}");
        assert!(request.header("authorization").is_none() && request.method == "GET");
        assert!(request.header("user-agent").unwrap().starts_with("containervm/"));
    }
    // Manifest, config, two layers: nothing twice.
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_digest_is_checked_whatever_the_header_says() {
    let stored = stored();
    let digest = Digest::of(stored.manifest());
    let server = flawed(&stored, "nothing", |_, _| None);
    let open =
        |suffix: &str| pull(&name(&server, suffix), &Platform::default(), false, no_credentials(), limits());
    assert_eq!(open(&format!("@{digest}")).unwrap().manifest_digest, Some(digest));

    let server = flawed(&stored, "manifests", move |_, _| {
        let headers = format!("Docker-Content-Digest: {digest}\r\nContent-Type: application/json\r\n");
        let other =
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[]}"#;
        Some(reply("200 OK", &headers, other))
    });
    let name = name(&server, &format!("@{digest}"));
    let error = pull(&name, &Platform::default(), false, no_credentials(), limits()).unwrap_err().to_string();
    assert!(error.contains("the registry gave another manifest"), "{error}");
}

/// Each is a fault that goes away: the image comes whole, after so many requests.
#[test]
fn what_is_transient_is_tried_again() {
    let table: [(&str, &str, Evil, usize); 9] = [
        ("a server error", "manifests", |n, _, _| (n < 2).then(|| reply("500 No", "", "")), 3),
        ("a full server", "LAYER", |n, _, _| (n < 1).then(|| reply("503 No", "Retry-After: 0\r\n", "")), 2),
        (
            "too many requests",
            "manifests",
            |n, _, _| (n < 1).then(|| reply("429 No", "Retry-After: 0\r\n", "")),
            2,
        ),
        (
            "a manifest cut",
            "manifests",
            |n, _, s| (n < 1).then(|| raw(&reply("200 OK", "", s.manifest()).bytes[..200], Then::Close)),
            2,
        ),
        ("no answer", "LAYER", |n, _, _| (n < 1).then(|| raw("", Then::Close)), 2),
        ("a blob cut", "LAYER", |n, _, s| (n < 1).then(|| cut(s, 2_000_000, Then::Close)), 2),
        // Each megabyte forgives.
        (
            "a blob cut often",
            "LAYER",
            |n, seen, s| {
                (n % 3 != 2 && seen.from() < 2_900_000).then(|| {
                    let (from, whole) = (seen.from(), s.answer(seen));
                    let head = whole.bytes.len() - (s.layer(1).len() - from);
                    raw(&whole.bytes[..head + 600_000.min(s.layer(1).len() - from)], Then::Close)
                })
            },
            0,
        ),
        (
            "no ranges",
            "LAYER",
            |n, _, s| {
                Some(if n < 1 { cut(s, 2_000_000, Then::Close) } else { reply("200 OK", "", s.layer(1)) })
            },
            2,
        ),
        (
            "a length that lies",
            "LAYER",
            |n, _, s| {
                (n < 1).then(|| raw([b"HTTP/1.1 200 OK\r\n\r\n", &s.layer(1)[..9]].concat(), Then::Close))
            },
            2,
        ),
    ];
    for (what, part, evil, requests) in table {
        let (server, result) = pull_flawed(part, evil, limits());
        result.unwrap_or_else(|e| panic!("{what}: {e:#}"));
        let part = if part == "LAYER" { stored().layers[1].clone() } else { part.to_owned() };
        assert!(requests == 0 || server.count(&part) == requests, "{what}: {}", server.count(&part));
    }
}

#[test]
fn silence_is_an_end_and_the_rest_comes_from_another_connection() {
    let (server, result) =
        pull_flawed("LAYER", |n, _, s| (n < 1).then(|| cut(s, 1_500_000, Then::Hang)), impatient());
    result.unwrap();
    assert_eq!(server.seen().last().unwrap().header("range"), Some("bytes=1500000-"));

    let (_, result) =
        pull_flawed("manifests", |_, _, _| Some(raw("HTTP/1.1 200 OK\r\n", Then::Hang)), impatient());
    assert!(error(result).contains("gave up after 3 attempts: no byte came for 0.1 s"));
    let (_, result) = pull_flawed("LAYER", |_, _, s| Some(cut(s, 5, Then::Hang)), impatient());
    assert!(error(result).contains("no byte came for 0.1 s"));
}

/// Each is final, with an error that says so, after so many requests for the part at most.
#[test]
fn what_is_wrong_is_refused() {
    const INDEX: &str = "Content-Type: application/vnd.oci.image.index.v1+json\r\n";
    let table: [(&str, Evil, &str, usize); 24] = [
        (
            "manifests",
            |_, _, _| {
                Some(reply(
                    "404 Not Found",
                    "",
                    r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
                ))
            },
            "cannot get x/manifests/latest from 127.0.0.1:PORT: no such image: 404 Not Found: \"manifest unknown\"",
            1,
        ),
        (
            "manifests",
            |_, _, _| Some(reply("403 Forbidden", "", "go away\x1b[2J")),
            "no access, or no such repository: 403 Forbidden: \"go away\\u{1b}[2J\"; no credentials for 127.0.0.1:PORT in /nowhere/config.json",
            1,
        ),
        (
            "manifests",
            |_, _, _| Some(reply("500 No", "", b"\xff\xfe")),
            "gave up after 3 attempts: 500 Internal Server Error: \"\u{fffd}\u{fffd}\"",
            3,
        ),
        (
            "manifests",
            |_, _, _| Some(reply("429 No", "Retry-After: 99999\r\n", "")),
            "asked to wait for 99999 s: 429 Too Many Requests",
            1,
        ),
        ("manifests", |_, _, _| Some(reply("200 OK", INDEX, "{")), "manifest latest: it is malformed", 1),
        (
            "manifests",
            |_, _, _| Some(reply("200 OK", INDEX, r#"{"schemaVersion":1}"#)),
            "docker's schema 1 is not supported",
            1,
        ),
        (
            "manifests",
            |_, _, _| Some(reply("200 OK", INDEX, r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#)),
            "both an index and a manifest",
            1,
        ),
        (
            "manifests",
            |_, _, _| Some(reply("200 OK", INDEX, r#"{"schemaVersion":2,"manifests":[]}"#)),
            "empty",
            1,
        ),
        (
            "manifests",
            |_, _, _| Some(reply("200 OK", "Content-Type: text/html\r\n", r#"{"schemaVersion":2}"#)),
            "text/html",
            1,
        ),
        (
            "manifests",
            |_, _, _| Some(raw("HTTP/1.1 200 OK\r\n\r\n", Then::Repeat(b"          "))),
            "larger than 4 MiB",
            1,
        ),
        (
            "manifests",
            |_, _, _| Some(raw("HTTP/1.1 200 OK\r\nX: ", Then::Repeat(b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"))),
            "headers are larger than 64 KiB",
            1,
        ),
        ("manifests", |_, _, _| Some(raw("HTTP/1.1 200 OK\r\n", Then::Repeat(b"X: y\r\n"))), "not HTTP", 1),
        ("manifests", |_, _, _| Some(raw("SSH-2.0-OpenSSH_9.2\r\n\r\n", Then::Close)), "not HTTP", 1),
        (
            "manifests",
            |_, _, _| Some(reply("302 Found", "Location: /v2/x/manifests/latest\r\n", "")),
            "more than 10 redirects",
            11,
        ),
        (
            "manifests",
            |_, _, _| Some(reply("302 Found", "Location: ftp://127.0.0.1/\r\n", "")),
            "only http and https",
            1,
        ),
        (
            "manifests",
            |_, _, _| Some(reply("302 Found", "Location: http://user:password@127.0.0.1/\r\n", "")),
            "user's name in it is not supported",
            1,
        ),
        (
            "manifests",
            |_, _, _| Some(reply("302 Found", "Location: http://a b/\r\n", "")),
            "a redirect to a malformed URL",
            1,
        ),
        ("manifests", |_, _, _| Some(reply("302 Found", "", "")), "a redirect to nowhere", 1),
        (
            "LAYER",
            |_, _, _| Some(reply("404 Not Found", "", "")),
            "cannot get x/blobs/LAYER from 127.0.0.1:PORT: 404 Not Found",
            1,
        ),
        (
            "LAYER",
            |_, _, _| Some(reply("200 OK", "", "short")),
            "the registry has 5 bytes, the manifest says ",
            1,
        ),
        (
            "LAYER",
            |n, _, s| {
                Some(if n == 0 {
                    cut(s, 9, Then::Close)
                } else {
                    reply("206 Partial Content", "Content-Range: bytes 0-8/9\r\n", "123456789")
                })
            },
            "asked for bytes 9- of ",
            2,
        ),
        (
            "LAYER",
            |n, _, s| {
                Some(if n == 0 {
                    cut(s, 9, Then::Close)
                } else {
                    reply("206 Partial Content", "", "123456789")
                })
            },
            "without Content-Range",
            2,
        ),
        (
            "LAYER",
            |n, _, s| Some(if n == 0 { cut(s, 9, Then::Close) } else { reply("416 No", "", "") }),
            "416 Range Not Satisfiable",
            2,
        ),
        ("LAYER", |_, _, s| Some(cut(s, 9, Then::Close)), "gave up after 3 attempts", 3),
    ];
    for (part, evil, expected, most) in table {
        let (server, result) = pull_flawed(part, evil, limits());
        let message = error(result);
        let layer = &stored().layers[1];
        let expected = expected.replace("PORT", &server.address.port().to_string()).replace("LAYER", layer);
        assert!(message.contains(&expected), "{expected:?} is not in {message:?}");
        assert!(
            message.contains("x/") || message.contains("manifest") || message.contains("index"),
            "{message}"
        );
        let count = server.count(&part.replace("LAYER", layer));
        assert_eq!(count, most, "{message}");
    }
}

#[test]
fn other_bytes_on_retry_are_found_by_the_digest() {
    let stored = stored();
    let known = stored.clone();
    let server = flawed(&stored, &stored.layers[1], move |n, seen| {
        Some(if n == 0 {
            cut(&known, 1_000_000, Then::Close)
        } else {
            let mut answer = known.answer(seen);
            *answer.bytes.last_mut().unwrap() ^= 1;
            answer
        })
    });
    let image = pull(&name(&server, ""), &Platform::default(), false, no_credentials(), limits()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(dir.path()).unwrap();
    let error = store.layer_disk(&image.layers[1], &mut |_, _| {}).unwrap_err();
    assert!(format!("{error:#}").contains("is damaged: expected sha256:"), "{error:#}");
    store.layer_disk(&image.layers[0], &mut |_, _| {}).unwrap();
}

#[test]
fn what_is_compressed_for_the_way_is_not_decoded() {
    let (_, result) = pull_flawed(
        "LAYER",
        |_, _, s| Some(reply("200 OK", "Content-Encoding: gzip\r\n", s.layer(1))),
        limits(),
    );
    result.unwrap();
}

#[test]
fn a_failed_stream_stays_failed() {
    use std::io::Read;
    let stored = stored();
    let server =
        flawed(&stored, "blobs/", |_, seen| seen.path.contains("blobs").then(|| reply("404 No", "", "")));
    let name = name(&server, "");
    let repository = Arc::new(Repository::new(&name, false, no_credentials(), limits()).unwrap());
    let blob = blob::RegistryBlob::new(repository, Digest::of(b"x"), 1);
    let mut stream = blob.open().unwrap();
    let messages = [(); 2].map(|()| stream.read(&mut [0]).unwrap_err().to_string());
    assert_eq!(messages[0], messages[1]);
    assert_eq!(server.count("blobs"), 1);
}
