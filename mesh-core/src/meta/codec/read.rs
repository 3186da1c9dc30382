//! Reading: postcard, with its length before every struct. A struct that ends early leaves the rest of its fields to their
//! defaults, and what stands behind the fields that are known here is passed over.

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, IntoDeserializer, Visitor},
};

use super::fault::Fault;

/// Takes one value from the front of some bytes.
pub(super) struct Reader<'a, 'de>(&'a mut &'de [u8]);

impl<'a, 'de> Reader<'a, 'de> {
    pub(super) const fn new(bytes: &'a mut &'de [u8]) -> Self {
        Self(bytes)
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, Fault> {
        let (byte, rest) = self.0.split_first().ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        *self.0 = rest;
        Ok(*byte)
    }

    /// A length or the number of a variant: most are below 128, and their own varint.
    #[inline]
    fn number(&mut self) -> Result<u64, Fault> {
        if let Some((byte @ ..0x80, rest)) = self.0.split_first() {
            *self.0 = rest;
            return Ok(u64::from(*byte));
        }
        let (number, rest) = postcard::take_from_bytes(self.0)?;
        *self.0 = rest;
        Ok(number)
    }

    /// A length, of no more than the bytes that are there: nothing that is counted here takes less than one.
    #[inline]
    fn len(&mut self) -> Result<usize, Fault> {
        let len = self.number()?;
        let len = usize::try_from(len).ok().filter(|len| *len <= self.0.len());
        len.ok_or_else(|| Fault::damaged("a length of more than there is"))
    }

    /// The bytes of a struct.
    fn frame(&mut self) -> Result<&'de [u8], Fault> {
        let len = self.len()?;
        let (frame, rest) = self.0.split_at(len);
        *self.0 = rest;
        Ok(frame)
    }

    fn fields<V: Visitor<'de>>(&mut self, of: &'static str, visitor: V) -> Result<V::Value, Fault> {
        let mut frame = self.frame()?;
        let mut early = false;
        let fields = Fields { frame: &mut frame, early: &mut early };
        visitor.visit_seq(fields).map_err(|fault| match fault {
            // Serde says of a field without a default that it is missing in words only.
            Fault::Damaged(_) if early => Fault::Lacking(of),
            fault => fault,
        })
    }

    fn items<V: Visitor<'de>>(&mut self, left: usize, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_seq(Items { bytes: self.0, left })
    }
}

macro_rules! bare {
    ($($name:ident,)*) => {
        $(#[inline]
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let mut postcard = postcard::Deserializer::from_bytes(self.0);
            let value = (&mut postcard).$name(visitor)?;
            *self.0 = postcard.finalize()?;
            Ok(value)
        })*
    };
}

impl<'de> Deserializer<'de> for Reader<'_, 'de> {
    type Error = Fault;

    bare! {
        deserialize_bool,
        deserialize_i8,
        deserialize_i16,
        deserialize_i32,
        deserialize_i64,
        deserialize_i128,
        deserialize_u16,
        deserialize_u32,
        deserialize_u64,
        deserialize_u128,
        deserialize_f32,
        deserialize_f64,
        deserialize_char,
        deserialize_str,
        deserialize_string,
        deserialize_bytes,
        deserialize_byte_buf,
        deserialize_unit,
    }

    #[inline]
    fn deserialize_u8<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u8(self.byte()?)
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Fault> {
        match self.byte()? {
            0 => visitor.visit_none(),
            1 => visitor.visit_some(self),
            _ => Err(Fault::damaged("neither something nor nothing")),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Fault> {
        let len = self.len()?;
        self.items(len, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(mut self, len: usize, visitor: V) -> Result<V::Value, Fault> {
        self.items(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.items(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Fault> {
        let left = self.len()?;
        visitor.visit_map(Items { bytes: self.0, left })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.fields(name, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let variant = u32::try_from(self.number()?).map_err(Fault::damaged)?;
        if variants.get(variant as usize).is_none() {
            return Err(Fault::Unknown { of: name, variant });
        }
        visitor.visit_enum(Chosen { reader: self, name, variant })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
        Err(Fault::damaged("these bytes do not say of themselves what they are"))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The fields of a struct, as far as there are any.
struct Fields<'a, 'de> {
    frame: &'a mut &'de [u8],
    /// Whether one was asked for that is not there.
    early: &'a mut bool,
}

impl<'de> de::SeqAccess<'de> for Fields<'_, 'de> {
    type Error = Fault;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        if self.frame.is_empty() {
            *self.early = true;
            return Ok(None);
        }
        seed.deserialize(Reader(self.frame)).map(Some)
    }
}

/// Parts one after another: of a sequence, a tuple, a map.
struct Items<'a, 'de> {
    bytes: &'a mut &'de [u8],
    left: usize,
}

impl<'de> Items<'_, 'de> {
    #[inline]
    fn next<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(Reader(self.bytes)).map(Some)
    }
}

impl<'de> de::SeqAccess<'de> for Items<'_, 'de> {
    type Error = Fault;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        self.next(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> de::MapAccess<'de> for Items<'_, 'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.next(seed)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        seed.deserialize(Reader(self.bytes))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// A variant that this build has.
struct Chosen<'a, 'de> {
    reader: Reader<'a, 'de>,
    /// Of which enum.
    name: &'static str,
    variant: u32,
}

impl<'de> de::EnumAccess<'de> for Chosen<'_, 'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let number: de::value::U32Deserializer<Fault> = self.variant.into_deserializer();
        Ok((seed.deserialize(number)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Chosen<'_, 'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self.reader)
    }

    fn tuple_variant<V: Visitor<'de>>(mut self, len: usize, visitor: V) -> Result<V::Value, Fault> {
        self.reader.items(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(mut self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        self.reader.fields(self.name, visitor)
    }
}
