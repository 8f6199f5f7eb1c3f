// An HTTP/2 server without TLS, by node.
//
//     h2c_app.js PORT
//
// The path says what to answer:
//
//     /echo         200, JSON of what arrived, with a trailer that the head announces nowhere
//     /size/N       200, N bytes
//     /stream/N/MS  200, N chunks, one every MS milliseconds
//     /early        103 with a link, then 200
//     /status/N     N without a body
//     /cut          200, ten bytes, then the connection breaks
const http2 = require("http2");
const crypto = require("crypto");

function echo(stream, headers) {
  const [digest, trailers] = [crypto.createHash("sha256"), {}];
  let length = 0;
  stream.on("trailers", (fields) => Object.assign(trailers, fields));
  stream.on("data", (data) => { length += data.length; digest.update(data); });
  stream.on("end", () => {
    stream.respond({ ":status": 200, "content-type": "application/json" }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "x-checksum": "5d41" }));
    stream.end(JSON.stringify({ version: "HTTP/2", headers, length, sha256: digest.digest("hex"), trailers }));
  });
}

function serve(stream, headers) {
  const [what, first, second] = headers[":path"].split("?")[0].split("/").slice(1);
  stream.on("error", () => {}); // the client left; that is part of what tests do
  if (what === "echo") return echo(stream, headers);
  stream.resume();
  if (what === "status") return stream.respond({ ":status": Number(first) }, { endStream: true });
  if (what === "early") stream.additionalHeaders({ ":status": 103, link: "</a.css>; rel=preload" });
  stream.respond({ ":status": 200 });
  if (what === "size") return stream.end("x".repeat(Number(first)));
  if (what === "early") return stream.end("after hints");
  if (what === "cut") return stream.write("0123456789", () => stream.session.destroy(new Error("as asked")));
  let left = Number(first);
  const timer = setInterval(() => {
    stream.write(`chunk ${first - left}\n`);
    if (--left === 0) { clearInterval(timer); stream.end(); }
  }, Number(second));
}

http2.createServer().on("sessionError", () => {}).on("stream", serve).listen(Number(process.argv[2]), "127.0.0.1");
