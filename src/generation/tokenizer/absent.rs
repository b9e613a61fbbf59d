//! No tokenizer: the type has no value, so nothing can be asked of one.

use std::convert::Infallible;

use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

pub struct Backend(Infallible);

pub struct Decoding;

impl Backend {
    pub const AVAILABLE: bool = false;

    pub fn from_json(_: &str) -> Result<Backend> {
        Err(Error::unsupported("this build of the library has no tokenizer: found text, expected token ids"))
    }

    pub fn encode(&self, _: &str) -> Result<Vec<u32>> {
        match self.0 {}
    }

    pub fn encode_until(&self, _: &str, _: &Interrupt) -> Result<Vec<u32>> {
        match self.0 {}
    }

    pub fn token(&self, _: &str) -> Option<u32> {
        match self.0 {}
    }

    pub fn text(&self, _: u32) -> Option<String> {
        match self.0 {}
    }

    pub fn vocabulary(&self) -> usize {
        match self.0 {}
    }

    pub fn show_special(&mut self, _: bool) {
        match self.0 {}
    }

    pub fn parse_special(&mut self, _: bool) {
        match self.0 {}
    }

    pub fn start(&self) -> Decoding {
        match self.0 {}
    }

    pub fn push(&self, _: &mut Decoding, _: u32) -> Result<String> {
        match self.0 {}
    }

    pub fn cut(&self, _: &mut Decoding) -> Result<()> {
        match self.0 {}
    }

    pub fn finish(&self, _: &mut Decoding) -> Result<String> {
        match self.0 {}
    }
}
