//! Writing: postcard, with its length before every struct.

use postcard::ser_flavors::Flavor;
use serde::{Serialize, Serializer, ser};

use super::fault::Fault;

/// Puts one value behind the bytes that are there.
pub(super) struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
    /// What stands behind the fields of every struct.
    behind: &'a [u8],
}

impl<'a> Writer<'a> {
    pub(super) const fn new(bytes: &'a mut Vec<u8>, behind: &'a [u8]) -> Self {
        Self { bytes, behind }
    }

    /// What has no parts, as postcard has it.
    fn bare<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        let mut postcard = postcard::Serializer { output: Onto(self.bytes) };
        Ok(value.serialize(&mut postcard)?)
    }

    fn part<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        value.serialize(Writer::new(self.bytes, self.behind))
    }

    /// The length stands before what it is of, and is known behind it: a byte is kept free, for most need no more.
    fn framed(self) -> Framed<'a> {
        let from = self.bytes.len();
        self.bytes.push(0);
        Framed { bytes: self.bytes, from, behind: self.behind }
    }

    fn counted(mut self, count: Option<usize>) -> Result<Self, Fault> {
        let count = count.ok_or_else(|| Fault::damaged("a sequence of unknown length"))?;
        self.bare(&(count as u64))?;
        Ok(self)
    }
}

/// A struct that is being written.
pub(super) struct Framed<'a> {
    bytes: &'a mut Vec<u8>,
    /// Where its length stands.
    from: usize,
    behind: &'a [u8],
}

impl Framed<'_> {
    fn field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        value.serialize(Writer::new(self.bytes, self.behind))
    }

    fn close(self) -> Result<(), Fault> {
        self.bytes.extend_from_slice(self.behind);
        let len = self.bytes.len() - self.from - 1;
        match u8::try_from(len) {
            Ok(short) if short < 0x80 => self.bytes[self.from] = short,
            _ => {
                let mut varint = [0; VARINT_BYTES_MAX];
                let varint = postcard::to_slice(&(len as u64), &mut varint)?;
                self.bytes.splice(self.from..=self.from, varint.iter().copied());
            }
        }
        Ok(())
    }
}

/// Where postcard puts its bytes.
struct Onto<'a>(&'a mut Vec<u8>);

impl Flavor for Onto<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

macro_rules! bare {
    ($($name:ident: $type:ty,)*) => {
        $(fn $name(mut self, value: $type) -> Result<(), Fault> { self.bare(&value) })*
    };
}

impl<'a> Serializer for Writer<'a> {
    type Ok = ();
    type Error = Fault;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Framed<'a>;
    type SerializeStructVariant = Framed<'a>;

    bare! {
        serialize_bool: bool,
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_i128: i128,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_u128: u128,
        serialize_f32: f32,
        serialize_f64: f64,
        serialize_char: char,
        serialize_str: &str,
    }

    fn serialize_bytes(mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.bare(&(bytes.len() as u64))?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn serialize_none(mut self) -> Result<(), Fault> {
        self.bare(&0_u8)
    }

    fn serialize_some<T: Serialize + ?Sized>(mut self, value: &T) -> Result<(), Fault> {
        self.bare(&1_u8)?;
        self.part(value)
    }

    fn serialize_unit(self) -> Result<(), Fault> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Fault> {
        Ok(())
    }

    fn serialize_unit_variant(mut self, _: &'static str, variant: u32, _: &'static str) -> Result<(), Fault> {
        self.bare(&variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Fault> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _: &'static str,
        variant: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        self.bare(&variant)?;
        self.part(value)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self, Fault> {
        self.counted(len)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Fault> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Fault> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        mut self,
        _: &'static str,
        variant: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Fault> {
        self.bare(&variant)?;
        Ok(self)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self, Fault> {
        self.counted(len)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Framed<'a>, Fault> {
        Ok(self.framed())
    }

    fn serialize_struct_variant(
        mut self,
        _: &'static str,
        variant: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Framed<'a>, Fault> {
        self.bare(&variant)?;
        Ok(self.framed())
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// Parts one after another, without anything between them.
macro_rules! parts {
    ($($kind:ident $part:ident,)*) => {
        $(impl ser::$kind for Writer<'_> {
            type Ok = ();
            type Error = Fault;

            fn $part<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
                self.part(value)
            }

            fn end(self) -> Result<(), Fault> {
                Ok(())
            }
        })*
    };
}

parts! {
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field,
}

impl ser::SerializeMap for Writer<'_> {
    type Ok = ();
    type Error = Fault;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Fault> {
        self.part(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        self.part(value)
    }

    fn end(self) -> Result<(), Fault> {
        Ok(())
    }
}

macro_rules! framed {
    ($($kind:ident,)*) => {
        $(impl ser::$kind for Framed<'_> {
            type Ok = ();
            type Error = Fault;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Result<(), Fault> {
                self.field(value)
            }

            fn end(self) -> Result<(), Fault> {
                self.close()
            }
        })*
    };
}

framed! {
    SerializeStruct,
    SerializeStructVariant,
}

/// Of a length of 64 bits.
const VARINT_BYTES_MAX: usize = 10;
