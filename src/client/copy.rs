//! Copies: one object is read and stored as another. The bytes pass through the client, as they pass through the S3 front
//! end when that copies; a client in the process of a node sends none of them over a link of its own.

use core::ops::Range;

use mesh_core::{
    Error, ErrorKind,
    limits::{OBJECT_PUT_BYTES_MAX, PART_BYTES_MAX},
    meta::Attributes,
    op::Destination,
    stream::{ByteRange, Place},
};

use super::{
    Client, Conditions, GetOptions, PutOptions, Stored,
    get::{Drawing, Drawn},
    put::pour,
    upload::{Part, Upload},
};

/// What goes with a copy. The default: what goes with its source, whatever is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// What the source must be.
    pub source: Conditions,
    /// What goes with the copy in place of what goes with the source.
    pub attributes: Option<Attributes>,
    /// What must hold of the target when the copy becomes visible.
    pub precondition: mesh_core::meta::Precondition,
}

impl Client {
    /// Stores an object of up to 5 GiB once more, elsewhere or with other attributes. Additional checksums that S3 keeps
    /// with an object do not go along.
    ///
    /// # Errors
    /// As [`Self::get`] and [`Self::put_with`]; `Precondition` if the source or the target is not what it must be;
    /// `Invalid` for a copy of an object to itself that changes nothing; `TooLarge` above 5 GiB: copy it in parts, see
    /// [`Upload::copy_part`].
    pub async fn copy(&self, from: &Place, to: &Place, options: CopyOptions) -> Result<Stored, Error> {
        let CopyOptions { source, attributes, precondition } = options;
        if attributes.is_none() && from == to {
            return Err(Error::invalid("a copy of an object to itself changes its attributes, or it is none"));
        }
        let (drawing, got) = Drawing::open(self, from, &GetOptions { range: None, conditions: source }).await?;
        if got.object.len > OBJECT_PUT_BYTES_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "one copy has at most 5 GiB; copy it in parts")
                .with("bytes", got.object.len));
        }
        let mut attributes = attributes.unwrap_or_else(|| got.object.attributes.clone());
        attributes.checksums.clear();
        let destination = PutOptions { attributes, precondition }.destination();
        pour(self, to.clone(), destination, &mut Drawn::new(drawing), &|_| {}).await
    }
}

impl Upload {
    /// Stores an object, or a range that lies inside it, as a part.
    ///
    /// # Errors
    /// As [`Self::put_part`]; of the source, as [`Client::get_with`]; `InvalidRange` for a range beyond its end too: the part
    /// would be shorter than it should.
    pub async fn copy_part(
        &self,
        number: u32,
        from: &Place,
        range: Option<ByteRange>,
        source: Conditions,
    ) -> Result<Part, Error> {
        let options = GetOptions { range, conditions: source };
        let (drawing, got) = Drawing::open(self.client(), from, &options).await?;
        if let Some(ByteRange::Between { last, .. }) = range
            && last >= got.object.len
        {
            return Err(Error::new(ErrorKind::InvalidRange, "the source has not all bytes of this range")
                .with("last", last)
                .with("object_len", got.object.len));
        }
        let Range { start, end } = got.range;
        if end - start > PART_BYTES_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "a part has at most 5 GiB").with("bytes", end - start));
        }
        let destination = Destination::Part { upload: self.id(), number };
        let stored = pour(self.client(), self.place().clone(), destination, &mut Drawn::new(drawing), &|_| {}).await?;
        Ok(Part::of(number, &stored))
    }
}
