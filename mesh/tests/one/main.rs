//! Whole endpoints on the loopback interface, port 0.

#[cfg(test)]
mod crossed;
#[cfg(test)]
mod epochs;
#[cfg(test)]
mod hygiene;
#[cfg(test)]
mod intruders;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod lifetime;
#[cfg(test)]
mod links;
#[cfg(test)]
mod node;
#[cfg(test)]
mod pairing;
#[cfg(test)]
mod port;
#[cfg(test)]
mod raw;
#[cfg(test)]
mod rotation;
#[cfg(test)]
mod rpc;
#[cfg(test)]
mod silence;
#[cfg(test)]
mod stored;
#[cfg(all(test, feature = "swim"))]
mod swim;
