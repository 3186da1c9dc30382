//! The least a server can do: takes bodies into memory and gives them back. No keys, no checks, no copies, no disk.
//!
//! What this one costs, the socket, the loopback and the client cost: nobody on this machine is faster with this load.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
};

use crate::client::{HEAD_MAX, content_length, split_head};

type Objects = Arc<Mutex<BTreeMap<String, Arc<Vec<u8>>>>>;

/// Serves until it is killed. Prints its address on a line of its own first.
pub(crate) fn serve() -> io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    println!("{}", listener.local_addr()?);
    let objects = Objects::default();
    for stream in listener.incoming() {
        let (stream, objects) = (stream?, Arc::clone(&objects));
        std::thread::spawn(move || {
            if let Err(error) = converse(stream, &objects)
                && error.kind() != io::ErrorKind::UnexpectedEof
            {
                eprintln!("the bare server: {error}");
            }
        });
    }
    Ok(())
}

fn converse(mut stream: TcpStream, objects: &Objects) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; HEAD_MAX];
    let mut filled = 0;
    loop {
        let (method, path, mut body, early) = loop {
            if let Some((head, rest)) = split_head(&buffer[..filled])? {
                let mut words = core::str::from_utf8(head).unwrap_or_default().split(' ').map(str::to_owned);
                let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                let body = Vec::with_capacity(content_length(head)?);
                break (method, path, body, rest.to_vec());
            }
            let read = stream.read(&mut buffer[filled..])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
        };
        // The client asks once it has its answer: all that has come is of this request.
        filled = 0;
        let missing = body.capacity().saturating_sub(early.len()) as u64;
        body.extend_from_slice(&early);
        if (&stream).take(missing).read_to_end(&mut body)? as u64 != missing {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut objects = objects.lock().unwrap_or_else(PoisonError::into_inner);
        if method == "PUT" {
            objects.insert(path, Arc::new(body));
            drop(objects);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        } else {
            let found = objects.get(&path).cloned();
            drop(objects);
            let status = if found.is_some() { "200 OK" } else { "404 Not Found" };
            let found = found.unwrap_or_default();
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", found.len())?;
            stream.write_all(&found)?;
        }
    }
}
