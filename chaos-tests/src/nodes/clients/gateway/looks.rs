//! What clients of S3 do beside what a history is made of: each look leaves nothing, and says what its answers must be.

use std::sync::atomic::Ordering::Relaxed;

use mesh_core::Error;
use mesh_fronts::s3::client::{Framing, checksum};

use super::{Gateways, KIND, META, Manner, Verdict, element, etag, expect_done};
use crate::nodes::clients::{BODY, user::acknowledged};

impl Gateways {
    /// What changes nothing that anybody sees. `number` is its own.
    pub(in crate::nodes::clients) async fn look_around(&self, bucket: &str, number: u64) -> Result<(), Error> {
        let own = format!("own-{number}");
        match number % 6 {
            0 => self.look_at_uploads(bucket, &own).await,
            1 => self.look_conditionally(bucket, &own).await,
            2 => self.be_refused(bucket, &own).await,
            3 => self.look_at_sums(bucket, &own).await,
            4 => self.look_at_copies(bucket, &own).await,
            _ => self.look_closely(bucket, &own).await,
        }
        .map_err(acknowledged)
    }

    /// Heads and ranges of what it has stored, under conditions.
    async fn look_conditionally(&self, bucket: &str, own: &str) -> Result<(), Error> {
        let (target, body) = (format!("/{bucket}/{own}"), BODY);
        let stored = etag(&self.ask(("PUT", &target), &[META, KIND], body, &Framing::Whole).await?)?;
        let (past, future) = ("Thu, 01 Jan 2015 00:00:00 GMT", "Mon, 01 Jan 2035 00:00:00 GMT");
        let asks: [(&str, (&str, &str), Verdict); 9] = [
            ("HEAD", ("if-match", &stored), (200, "")),
            ("HEAD", ("if-none-match", &stored), (304, "")),
            ("GET", ("if-none-match", &stored), (304, "")),
            ("GET", ("if-match", "\"another\""), (412, "PreconditionFailed")),
            ("GET", ("if-modified-since", past), (200, "")),
            ("GET", ("if-unmodified-since", future), (200, "")),
            ("GET", ("if-unmodified-since", past), (412, "PreconditionFailed")),
            ("GET", ("range", "bytes=-4"), (206, "")),
            ("GET", ("range", "bytes=17-"), (416, "InvalidRange")),
        ];
        for (method, header, verdict) in asks {
            let headers = [header];
            let manner = Manner::whole(&headers, b"");
            let reply = self.expect(manner, (method, &target), verdict).await?;
            let kept = |name: &str| reply.headers.get(name).map(String::as_str);
            if verdict.0 == 200 && (kept(META.0), kept(KIND.0)) != (Some(META.1), Some(KIND.1)) {
                return Err(Error::bug("an object has other metadata than it was given").with("object", target));
            }
            if verdict.0 == 206 && reply.body != b"eeps" {
                return Err(Error::bug("a range has other bytes than its object").with("object", target));
            }
        }
        self.remove(bucket, own).await
    }

    /// What is refused whatever happens, and leaves nothing.
    async fn be_refused(&self, bucket: &str, own: &str) -> Result<(), Error> {
        let target = format!("/{bucket}/{own}");
        let wrong = [("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")];
        let sum = checksum(b"other bytes");
        let other = [("x-amz-checksum-sha256", &*sum)];
        let (much, long) = ("much".repeat(600), format!("/{bucket}/{}", "long".repeat(300)));
        let headers = [("x-amz-meta-of", &*much)];
        let with = |headers| Manner::whole(headers, b"it");
        self.expect(with(&wrong), ("PUT", &target), (400, "BadDigest")).await?;
        self.expect(with(&other), ("PUT", &target), (400, "BadDigest")).await?;
        let plain = Manner::whole(&[], b"");
        self.expect(plain, ("GET", "/no-such-bucket/it"), (404, "NoSuchBucket")).await?;
        self.expect(plain, ("GET", &format!("/{bucket}?list-type=2&max-keys=-1")), (400, "InvalidArgument")).await?;
        self.expect(plain, ("GET", &format!("{target}?attributes")), (501, "NotImplemented")).await?;
        self.expect(plain, ("PUT", &format!("{target}?acl")), (501, "NotImplemented")).await?;
        self.expect(Manner::Presigned2 { good_s: -60 }, ("GET", &target), (403, "AccessDenied")).await?;
        let too_long = (400, "AuthorizationQueryParametersError");
        self.expect(Manner::Presigned2 { good_s: 8 * 24 * 3600 }, ("GET", &target), too_long).await?;
        self.expect(Manner::Nobody, ("GET", &target), (403, "AccessDenied")).await?;
        self.expect(with(&headers), ("PUT", &target), (400, "MetadataTooLarge")).await?;
        self.expect(with(&[]), ("PUT", &long), (400, "KeyTooLongError")).await?;
        for (signer, code) in
            [(self.signer.forged(), "SignatureDoesNotMatch"), (self.signer.unknown(), "InvalidAccessKeyId")]
        {
            let (street, time, hosts) = (self.street.clone(), self.time.clone(), self.hosts.clone());
            let stranger = Self::new(street, time, hosts, signer);
            stranger.at.store(self.at.load(Relaxed), Relaxed);
            for manner in [plain, Manner::Presigned, Manner::Presigned2 { good_s: 60 }] {
                stranger.expect(manner, ("GET", &target), (403, code)).await?;
            }
        }
        self.expect(plain, ("GET", &target), (404, "NoSuchKey")).await.map(drop)
    }

    /// Checksums, headers that it wants otherwise, folders, and lists of the older kind.
    async fn look_closely(&self, bucket: &str, own: &str) -> Result<(), Error> {
        let (folder, body) = (format!("{own}/"), BODY);
        let (target, sum) = (format!("/{bucket}/{folder}it"), checksum(body));
        let sums = [("x-amz-checksum-sha256", &*sum)];
        self.ask(("PUT", &target), &sums, body, &Framing::Whole).await?;
        self.expect_sum(&target, "sha256", &sum).await?;
        let shows = [("x-amz-checksum-mode", "ENABLED")];
        let otherwise = format!("{target}?response-content-type=text%2Fplain");
        let shown = self.ask(("GET", &otherwise), &shows, b"", &Framing::Whole).await?;
        if shown.headers.get(KIND.0).map(String::as_str) != Some("text/plain") {
            return Err(Error::bug("an object is not shown as what it is wanted").with("object", target));
        }
        self.ask(("GET", &format!("/{bucket}?versioning")), &[], b"", &Framing::Whole).await?;
        let prefix = format!("/{bucket}?delimiter=%2F&prefix={own}");
        for kind in ["", "&list-type=2&fetch-owner=true", "&encoding-type=url"] {
            let listed = self.ask(("GET", &format!("{prefix}{kind}")), &[], b"", &Framing::Whole).await?;
            let text = String::from_utf8_lossy(&listed.body);
            if !text.contains(&format!("<CommonPrefixes><Prefix>{}", folder.trim_end_matches('/'))) {
                return Err(Error::bug("a folder is not listed").with("list", text));
            }
        }
        self.remove(bucket, &format!("{folder}it")).await
    }

    async fn look_at_uploads(&self, bucket: &str, own: &str) -> Result<(), Error> {
        let get = async |target: &str| self.ask(("GET", target), &[], b"", &Framing::Whole).await;
        let known = get("/").await?;
        if !String::from_utf8_lossy(&known.body).contains(&format!("<Name>{bucket}</Name>")) {
            return Err(Error::bug("a bucket is not listed").with("bucket", bucket));
        }
        get(&format!("/{bucket}?location")).await?;
        let own = format!("/{own}");
        self.ask(("PUT", &own), &[], b"", &Framing::Whole).await?;
        self.ask(("DELETE", &own), &[], b"", &Framing::Whole).await?;
        self.ask(("HEAD", &format!("/{bucket}")), &[], b"", &Framing::Whole).await?;
        let target = format!("/{bucket}/own-upload");
        let upload = self.begin_upload(&target).await?;
        let part = format!("{target}?partNumber=7&uploadId={upload}");
        self.ask(("PUT", &part), &[], b"a part", &Framing::Whole).await?;
        let parts = get(&format!("{target}?uploadId={upload}")).await?;
        if element(&parts, "PartNumber").as_deref() != Some("7") {
            return Err(Error::bug("an upload lists other parts than it has").with("upload", upload));
        }
        let uploads = get(&format!("/{bucket}?prefix=own-upload&uploads")).await?;
        if !String::from_utf8_lossy(&uploads.body).contains(&upload) {
            return Err(Error::bug("an upload is not listed").with("upload", upload));
        }
        self.ask(("DELETE", &format!("{target}?uploadId={upload}")), &[], b"", &Framing::Whole).await.map(drop)
    }

    /// Checksums of every kind, of objects and of what is made of parts.
    async fn look_at_sums(&self, bucket: &str, own: &str) -> Result<(), Error> {
        let target = format!("/{bucket}/{own}");
        let put = async |headers: &[(&str, &str)], verdict| {
            let manner = Manner::whole(headers, BODY);
            self.expect(manner, ("PUT", &target), verdict).await
        };
        for (name, algorithm, sum, other) in SUMS {
            let header = format!("x-amz-checksum-{name}");
            put(&[(&header, other)], (400, "BadDigest")).await?;
            put(&[(&header, sum)], (200, "")).await?;
            self.expect_sum(&target, name, sum).await?;
            // It is computed here.
            put(&[("x-amz-sdk-checksum-algorithm", algorithm)], (200, "")).await?;
            self.expect_sum(&target, name, sum).await?;
        }
        let [(_, _, sum, _), ..] = SUMS;
        put(&[("x-amz-checksum-crc32", "AAAA")], (400, "InvalidRequest")).await?;
        put(&[("x-amz-checksum-crc32", sum), ("x-amz-checksum-sha256", SHA256)], (400, "InvalidRequest")).await?;
        put(&[("content-md5", "AAAA")], (400, "InvalidDigest")).await?;
        self.remove(bucket, own).await?;
        self.look_at_sums_of_parts(bucket, own).await
    }

    async fn expect_sum(&self, target: &str, name: &str, sum: &str) -> Result<(), Error> {
        let shows = [("x-amz-checksum-mode", "ENABLED")];
        let head = self.ask(("HEAD", target), &shows, b"", &Framing::Whole).await?;
        match head.headers.get(&format!("x-amz-checksum-{name}")).map(String::as_str) {
            Some(shown) if shown == sum => Ok(()),
            shown => Err(Error::bug("an object has another checksum than it must")
                .with("object", target)
                .with("of", name)
                .with("shown", format!("{shown:?}"))),
        }
    }

    async fn look_at_sums_of_parts(&self, bucket: &str, own: &str) -> Result<(), Error> {
        let target = format!("/{bucket}/{own}/in-parts");
        let begin = format!("{target}?uploads");
        let kind = ("x-amz-checksum-type", "FULL_OBJECT");
        for headers in [&[kind][..], &[("x-amz-checksum-algorithm", "SHA1"), kind]] {
            let manner = Manner::whole(headers, b"");
            self.expect(manner, ("POST", &begin), (400, "InvalidRequest")).await?;
        }
        for (algorithm, kind, name, whole) in WHOLES {
            let headers = [("x-amz-checksum-algorithm", algorithm), ("x-amz-checksum-type", kind)];
            let begun = self.ask(("POST", &begin), &headers, b"", &Framing::Whole).await?;
            let upload = element(&begun, "UploadId").ok_or_else(|| Error::bug("an upload without an id"))?;
            self.page_uploads(bucket, own, &upload).await?;
            let part = |number: u32| format!("{target}?partNumber={number}&uploadId={upload}");
            let body = |headers| Manner::whole(headers, BODY);
            self.expect(body(&[]), ("PUT", &part(0)), (400, "InvalidArgument")).await?;
            let headers = [("x-amz-sdk-checksum-algorithm", algorithm)];
            let etag = etag(&self.ask(("PUT", &part(1)), &headers, BODY, &Framing::Whole).await?)?;
            let list = |parts: &[(u32, &str)]| {
                let part = |(number, etag): &(u32, &str)| {
                    format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
                };
                let parts: String = parts.iter().map(part).collect();
                format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
            };
            let (right, complete) = (list(&[(1, &etag)]), format!("{target}?uploadId={upload}"));
            let wrong = [
                (list(&[]), "MalformedXML"),
                (list(&[(2, &etag), (1, &etag)]), "InvalidPartOrder"),
                (list(&[(1, "\"another\"")]), "InvalidPart"),
            ];
            let headers = [("x-amz-mp-object-size", "99"), ("x-amz-checksum-type", "NEITHER")].map(|header| [header]);
            let plain = wrong.iter().map(|(list, code)| (&[][..], list, *code));
            let otherwise = headers.iter().map(|headers| (&headers[..], &right, "InvalidRequest"));
            for (headers, list, code) in plain.chain(otherwise) {
                let manner = Manner::whole(headers, list.as_bytes());
                self.expect_complaint(manner, ("POST", &complete), (400, code)).await?;
            }
            let completed = self.ask(("POST", &complete), &[], right.as_bytes(), &Framing::Whole).await?;
            expect_done(&completed)?;
            self.expect_sum(&target, name, whole).await?;
            self.remove(bucket, &format!("{own}/in-parts")).await?;
        }
        Ok(())
    }

    /// Lists open uploads, of which this is one, in every way there is.
    async fn page_uploads(&self, bucket: &str, own: &str, upload: &str) -> Result<(), Error> {
        let list = async |query: String| {
            let listed = self.ask(("GET", &format!("/{bucket}?uploads&{query}")), &[], b"", &Framing::Whole).await?;
            Ok::<_, Error>(String::from_utf8_lossy(&listed.body).into_owned())
        };
        let wrong = |what: &'static str, text: String| Err(Error::bug("uploads are listed wrongly").with(what, text));
        let folders = list(format!("prefix={own}&delimiter=%2F")).await?;
        if !folders.contains(&format!("<Prefix>{own}/</Prefix>")) || folders.contains(upload) {
            return wrong("folders", folders);
        }
        let behind = list(format!("prefix={own}&key-marker={own}%2Fin-parts&upload-id-marker={upload}")).await?;
        let behind_key = list(format!("prefix={own}&key-marker={own}%2Fin-parts")).await?;
        let none = list(format!("prefix={own}&max-uploads=0")).await?;
        match [behind, behind_key, none]
            .into_iter()
            .find(|text| text.contains(&format!("<UploadId>{upload}</UploadId>")))
        {
            Some(text) => wrong("behind it", text),
            None => Ok(()),
        }
    }

    /// Copies of all kinds, and ranges on conditions.
    async fn look_at_copies(&self, bucket: &str, own: &str) -> Result<(), Error> {
        let (target, copy) = (format!("/{bucket}/{own}"), format!("/{bucket}/{own}-copy"));
        let expires = ("expires", "Mon, 01 Jan 2035 00:00:00 GMT");
        let etag = etag(&self.ask(("PUT", &target), &[META, KIND, expires], BODY, &Framing::Whole).await?)?;
        let head = self.ask(("HEAD", &target), &[], b"", &Framing::Whole).await?;
        if head.headers.get(expires.0).map(String::as_str) != Some(expires.1) {
            return Err(Error::bug("an object has other headers than it was given").with("object", target));
        }
        let (source, past) = (("x-amz-copy-source", &*target), "Thu, 01 Jan 2015 00:00:00 GMT");
        let refused: [(&str, (&str, &str), Verdict); 6] = [
            (&target, ("x-amz-metadata-directive", "COPY"), (400, "InvalidRequest")),
            (&copy, ("x-amz-metadata-directive", "NEITHER"), (400, "InvalidArgument")),
            (&copy, ("if-match", "\"another\""), (501, "NotImplemented")),
            (&copy, ("x-amz-copy-source-range", "bytes=0-3"), (501, "NotImplemented")),
            (&copy, ("x-amz-copy-source-if-none-match", &etag), (412, "PreconditionFailed")),
            (&copy, ("x-amz-copy-source-if-unmodified-since", past), (412, "PreconditionFailed")),
        ];
        for (to, header, verdict) in refused {
            let headers = [source, header];
            let manner = Manner::whole(&headers, b"");
            self.expect(manner, ("PUT", to), verdict).await?;
        }
        let anew = [source, ("x-amz-metadata-directive", "REPLACE"), KIND, ("x-amz-checksum-algorithm", "CRC32")];
        expect_done(&self.ask(("PUT", &target), &anew, b"", &Framing::Whole).await?)?;
        let [(name, _, sum, _), ..] = SUMS;
        self.expect_sum(&target, name, sum).await?;
        let ranges: [(&str, Verdict, &[u8]); 4] = [
            (&etag, (206, ""), b"what"),
            ("\"another\"", (200, ""), BODY),
            ("W/\"weak\"", (200, ""), BODY),
            (past, (200, ""), BODY),
        ];
        for (meant, verdict, bytes) in ranges {
            let headers = [("range", "bytes=0-3"), ("if-range", meant)];
            let manner = Manner::whole(&headers, b"");
            if self.expect(manner, ("GET", &target), verdict).await?.body != bytes {
                return Err(Error::bug("a range on a condition has other bytes than it must").with("if", meant));
            }
        }
        let upload = self.begin_upload(&copy).await?;
        let part = format!("{copy}?partNumber=1&uploadId={upload}");
        for (range, verdict) in [("bytes=0-99", (416, "InvalidRange")), ("bytes=4-", (400, "InvalidArgument"))] {
            let headers = [source, ("x-amz-copy-source-range", range)];
            let manner = Manner::whole(&headers, b"");
            self.expect(manner, ("PUT", &part), verdict).await?;
        }
        let headers = [source, ("x-amz-copy-source-range", "bytes=5-6")];
        let copied = self.ask(("PUT", &part), &headers, b"", &Framing::Whole).await?;
        expect_done(&copied)?;
        let etag = element(&copied, "ETag").ok_or_else(|| Error::bug("a part without an ETag"))?;
        self.complete(&copy, &upload, &etag).await?;
        let got = self.ask(("GET", &copy), &[], b"", &Framing::Whole).await?;
        if got.body != b"a " {
            return Err(Error::bug("a part of a copy has other bytes than it must").with("object", copy));
        }
        self.remove_all(bucket, &[own, &format!("{own}-copy")]).await
    }
}

/// Checksums of [`BODY`], reckoned elsewhere: header, algorithm, value, and that of other bytes.
const SUMS: [(&str, &str, &str, &str); 4] = [
    ("crc32", "CRC32", "lt2HXw==", "AAAAAA=="),
    ("crc32c", "CRC32C", "E3dyOw==", "AAAAAA=="),
    ("crc64nvme", "CRC64NVME", "pDunYEUbaQM=", "AAAAAAAAAAA="),
    ("sha1", "SHA1", "4ZAHEDOsExkrENwyO0sF7RCOnNs=", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
];
const SHA256: &str = "8hM5Jm7S/XzZJli0iBr9dR7MFe690wMexC7XMpSxY3U=";
/// Those of an object that is made of it as the only part: algorithm, kind, header, value.
const WHOLES: [(&str, &str, &str, &str); 3] = [
    ("CRC64NVME", "FULL_OBJECT", "crc64nvme", "pDunYEUbaQM="),
    ("CRC32", "COMPOSITE", "crc32", "syiF7g==-1"),
    ("SHA1", "COMPOSITE", "sha1", "Tf/V7F2Fu5OFF8r7srYHN8r/400=-1"),
];
