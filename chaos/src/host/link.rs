//! A network interface's up flag, by ioctl (netdevice(7)). The `unsafe` of it lives here.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;

/// Takes an interface of the calling thread's namespace down: from the return on it sends nothing.
pub(super) fn set_down(name: &str) -> io::Result<()> {
    // Any socket of the namespace will do.
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    let mut request = named(name)?;
    control(&socket, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has filled in this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    // The flag is the lowest bit, so that it fits into the kernel's short.
    request.ifr_ifru.ifru_flags = flags & !(libc::IFF_UP as libc::c_short);
    control(&socket, libc::SIOCSIFFLAGS, &mut request)
}

fn named(name: &str) -> io::Result<libc::ifreq> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: ifreq is plain numbers, for which zero is a value; the name stays terminated.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    Ok(request)
}

fn control(socket: &UdpSocket, request: libc::Ioctl, data: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: both requests read and write one ifreq, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, data) };
    Errno::result(result)?;
    Ok(())
}
