//! An HTTP/1.1 server for EC2's query protocol: form-encoded requests, XML answers, connections kept alive.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) authorization: String,
}

impl Request {
    pub(super) fn action(&self) -> &str {
        self.parameter("Action")
    }

    pub(super) fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }

    /// The values of a list parameter: `name.1`, `name.2`, …
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        (1..)
            .map_while(|index| self.parameters.get(&format!("{name}.{index}")).cloned())
            .collect()
    }
}

#[derive(Clone, Debug)]
pub(super) enum Reply {
    Answer {
        status: u16,
        body: String,
    },
    /// The connection stays open, and nothing comes.
    Hang,
    /// The connection closes without an answer.
    Close,
}

type Script = dyn FnMut(&Request) -> Reply + Send;

/// Runs until the test's runtime ends.
pub(super) struct Responder {
    pub(super) endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
}

impl Responder {
    pub(super) async fn start(script: impl FnMut(&Request) -> Reply + Send + 'static) -> Responder {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(script));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (seen, count) = (requests.clone(), connections.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, script.clone(), seen.clone()));
            }
        });
        Responder {
            endpoint,
            requests,
            connections,
        }
    }

    /// One that always answers the same.
    pub(super) async fn always(reply: Reply) -> Responder {
        Responder::start(move |_| reply.clone()).await
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(stream: TcpStream, script: Arc<Mutex<Script>>, requests: Arc<Mutex<Vec<Request>>>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let reply = (script.lock().unwrap())(&request);
        requests.lock().unwrap().push(request);
        match reply {
            Reply::Answer { status, body } => {
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Type: text/xml;charset=UTF-8\r\n\
                     x-amzn-requestid: r-3\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                // The client may be gone: that is its choice.
                let _ = stream
                    .get_mut()
                    .write_all(format!("{head}{body}").as_bytes())
                    .await;
            }
            Reply::Hang => std::future::pending().await,
            Reply::Close => return,
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut request = Request::default();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            if line.trim_end().is_empty() {
                break;
            }
            assert!(line.starts_with("POST / HTTP/1.1"), "{line:?}");
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => request.authorization = value.to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    for pair in String::from_utf8(body).unwrap().split('&') {
        let (name, value) = pair.split_once('=').unwrap();
        assert!(
            !value.contains('%'),
            "no value of these requests needs an escape: {pair}"
        );
        request.parameters.insert(name.to_owned(), value.to_owned());
    }
    Some(request)
}

const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

pub(super) fn assigned() -> Reply {
    let body = format!(
        "<AssignPrivateIpAddressesResponse xmlns=\"{NAMESPACE}\"><requestId>r-1</requestId>\
         <return>true</return></AssignPrivateIpAddressesResponse>"
    );
    Reply::Answer { status: 200, body }
}

pub(super) fn described(network_interface: &str, addresses: &[IpAddr]) -> Reply {
    let items: String = addresses
        .iter()
        .map(|address| format!("<item><privateIpAddress>{address}</privateIpAddress></item>"))
        .collect();
    let body = format!(
        "<DescribeNetworkInterfacesResponse xmlns=\"{NAMESPACE}\"><requestId>r-2</requestId>\
         <networkInterfaceSet><item><networkInterfaceId>{network_interface}</networkInterfaceId>\
         <privateIpAddressesSet>{items}</privateIpAddressesSet></item></networkInterfaceSet>\
         </DescribeNetworkInterfacesResponse>"
    );
    Reply::Answer { status: 200, body }
}

pub(super) fn refused(status: u16, code: &str, message: &str) -> Reply {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code>\
         <Message>{message}</Message></Error></Errors><RequestID>r-3</RequestID></Response>"
    );
    Reply::Answer { status, body }
}
