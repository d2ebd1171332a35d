//! Sockets, frames and HTTP on the hosts of a fabric.

pub(crate) mod ec2;
pub(crate) mod lan;
pub(crate) mod machine;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use tandem_chaos::fabric::{Ec2Fabric, Fabric};
use tandem_chaos::host::packet::PacketSocket;
use tandem_chaos::host::{Host, HostId, tool};

/// Far above what a packet takes on a busy machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Both ends of every test flow, so that a flow after a move has the same five-tuple as before.
pub(crate) const PORT: u16 = 5060;

/// A UDP socket on a host, bound to one of its addresses.
pub(crate) fn socket(host: &Host, address: Ipv4Addr) -> UdpSocket {
    let bound = SocketAddrV4::new(address, PORT);
    let socket = host.run_in(|| UdpSocket::bind(bound)).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub(crate) fn send(socket: &UdpSocket, to: Ipv4Addr, text: &str) {
    socket.send_to(text.as_bytes(), (to, PORT)).unwrap();
}

/// The next datagram's text and source; fails when none comes.
pub(crate) fn receive(socket: &UdpSocket) -> (String, Ipv4Addr) {
    let mut buffer = [0; 64];
    let (length, source) = socket.recv_from(&mut buffer).expect("a datagram arrives");
    let SocketAddr::V4(source) = source else {
        panic!("IPv6 source {source}");
    };
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    (text, *source.ip())
}

/// Asserts what arrives next and from where.
#[track_caller]
pub(crate) fn expect(socket: &UdpSocket, text: &str, from: Ipv4Addr) {
    assert_eq!(receive(socket), (text.to_owned(), from));
}

/// Adds an address to a host's first interface, as an address mover does.
pub(crate) fn add_address(host: &Host, address: &str) {
    let batch = format!("addr add {address} dev eth0");
    tool::ip(Some(host.namespace()), &batch).unwrap();
}

pub(crate) fn remove_address(host: &Host, address: &str) {
    let batch = format!("addr del {address} dev eth0");
    tool::ip(Some(host.namespace()), &batch).unwrap();
}

/// RFC 5227 s3: an ARP announcement, sender and target both `address`.
pub(crate) fn announce(host: &Host, hardware: [u8; 6], address: Ipv4Addr) {
    let mut frame = vec![0xff; 6];
    frame.extend(hardware);
    // EtherType ARP; Ethernet, IPv4, their lengths; request.
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    frame.extend(hardware);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    let sent = host.run_in(|| PacketSocket::sender("eth0")?.send(&frame));
    sent.unwrap().unwrap();
}

pub(crate) fn node_b_hardware() -> [u8; 6] {
    [2, 0, 0, 0, 0, 2]
}

pub(crate) fn as_ec2(fabric: &Fabric) -> &Ec2Fabric {
    match fabric {
        Fabric::Ec2(fabric) => fabric,
        Fabric::Lan(_) => panic!("not an EC2 fabric"),
    }
}

/// One EC2 call from a host: the status and the document, or why there was no answer.
pub(crate) fn call(host: &Host, form: &str) -> std::io::Result<(u16, String)> {
    call_within(host, form, PATIENCE)
}

pub(crate) fn call_within(
    host: &Host,
    form: &str,
    patience: Duration,
) -> std::io::Result<(u16, String)> {
    let endpoint = Ec2Fabric::api_url();
    let endpoint: SocketAddr = endpoint.trim_start_matches("http://").parse().unwrap();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    host.run_in(|| {
        let mut stream = TcpStream::connect_timeout(&endpoint, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Ok((status, body.to_owned()))
    })?
}

/// The form of an AssignPrivateIpAddresses that takes the floating address.
pub(crate) fn take_over(node: HostId, address: Ipv4Addr) -> String {
    format!(
        "Action=AssignPrivateIpAddresses&Version=2016-11-15&NetworkInterfaceId={}\
         &PrivateIpAddress.1={address}&AllowReassignment=true",
        Ec2Fabric::interface_id(node)
    )
}
