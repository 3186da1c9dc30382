#!/usr/bin/env bash
# What people have for S3, each as it comes: put, list, get and delete of a small object and of one in parts.
#
#     . DIR/dev.env; clients.sh        with AWS_CA_BUNDLE over TLS
#
# aws, rclone, s5cmd and curl; one that is not installed is skipped, and said. Prints a line a client.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
# No settings of whoever runs this.
export HOME="$folder" AWS_EC2_METADATA_DISABLED=true
head -c 1000 /dev/urandom > "$folder/small"
head -c 40000000 /dev/urandom > "$folder/large"

# $1: the client. $2, $3: functions that copy a file to a key and back. $4: lists keys. $5: deletes one.
check() {
    local client="$1" put="$2" get="$3" list="$4" delete="$5" what
    for what in small large; do
        "$put" "$folder/$what" "$client/$what"
        "$get" "$client/$what" "$folder/back"
        cmp "$folder/$what" "$folder/back"
        "$list" "$client/" | grep -q "$what"
        "$delete" "$client/$what"
        if "$list" "$client/" 2>/dev/null | grep -q "$what"; then
            echo "$client: $what was deleted and is listed" >&2
            exit 1
        fi
    done
    echo "ok      $client"
}

installed() { command -v "$1" > /dev/null || { echo "SKIPPED $1: not installed"; return 1; }; }

if installed aws && aws --version > /dev/null 2>&1; then
    put() { aws s3 cp --quiet "$1" "s3://$MESH_BUCKET/$2"; }
    get() { aws s3 cp --quiet "s3://$MESH_BUCKET/$1" "$2"; }
    list() { aws s3 ls "s3://$MESH_BUCKET/$1" || true; }
    delete() { aws s3 rm --quiet "s3://$MESH_BUCKET/$1"; }
    check aws put get list delete
fi

if installed rclone; then
    export RCLONE_CONFIG="$folder/rclone.conf" RCLONE_S3_PROVIDER=Other RCLONE_S3_ENV_AUTH=true
    # Of AWS_CA_BUNDLE its SDK makes an error.
    rclone() { env -u AWS_CA_BUNDLE rclone "$@"; }
    export RCLONE_S3_ENDPOINT="$AWS_ENDPOINT_URL" RCLONE_CA_CERT="${AWS_CA_BUNDLE:-}"
    # Parts at this size.
    export RCLONE_S3_UPLOAD_CUTOFF=8M RCLONE_S3_CHUNK_SIZE=5M RCLONE_S3_NO_CHECK_BUCKET=true
    touch "$RCLONE_CONFIG"
    put() { rclone copyto "$1" ":s3:$MESH_BUCKET/$2"; }
    get() { rclone copyto --ignore-times ":s3:$MESH_BUCKET/$1" "$2"; }
    list() { rclone lsf ":s3:$MESH_BUCKET/$1" || true; }
    delete() { rclone deletefile ":s3:$MESH_BUCKET/$1"; }
    check rclone put get list delete
fi

if installed s5cmd; then
    # It reads AWS_CA_BUNDLE and AWS_REGION itself.
    s5() { s5cmd --endpoint-url "$AWS_ENDPOINT_URL" "$@"; }
    put() { s5 cp -p 8 "$1" "s3://$MESH_BUCKET/$2" > /dev/null; }
    get() { s5 cp "s3://$MESH_BUCKET/$1" "$2" > /dev/null; }
    list() { s5 ls "s3://$MESH_BUCKET/$1" || true; }
    delete() { s5 rm "s3://$MESH_BUCKET/$1" > /dev/null; }
    check s5cmd put get list delete
fi

if installed curl && curl --help all | grep -q aws-sigv4; then
    ask() {
        curl --silent --show-error --fail ${AWS_CA_BUNDLE:+--cacert "$AWS_CA_BUNDLE"} --aws-sigv4 "aws:amz:$AWS_REGION:s3" \
            --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" --header "x-amz-content-sha256: UNSIGNED-PAYLOAD" "$@"
    }
    put() { ask --upload-file "$1" "$AWS_ENDPOINT_URL/$MESH_BUCKET/$2"; }
    get() { ask --output "$2" "$AWS_ENDPOINT_URL/$MESH_BUCKET/$1"; }
    list() { ask "$AWS_ENDPOINT_URL/$MESH_BUCKET?list-type=2&prefix=${1%/}"; }
    delete() { ask --request DELETE "$AWS_ENDPOINT_URL/$MESH_BUCKET/$1"; }
    check curl put get list delete
fi
