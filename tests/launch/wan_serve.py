#!/usr/bin/env python3
"""wan_serve as its callers find it: each endpoint, each rule of who may ask what, and what becomes of jobs when ranks or the server end.

Usage: wan_serve.py WAN_SERVE WAN_T2V WANRUN MODEL PYTHON_WITH_TORCH
"""

import base64
import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from processes import check, environment, finish, free_port, run, torchrun

serve, wan_t2v, wanrun, model, python = sys.argv[1:6]
folder = pathlib.Path(tempfile.mkdtemp(prefix="wan_serve_test."))
SMALL = ["--size", "64*64", "--frame_num", "5", "--sample_steps", "2", "--sample_guide_scale", "4"]
PROMPT = "a red ball moves left on a dark blue background"


def seconds_of(process):
    """CPU time, which a busy machine does not stretch."""
    words = pathlib.Path("/proc/{}/stat".format(process)).read_text().rsplit(")", 1)[1].split()
    return sum(map(int, words[11:13])) / os.sysconf("SC_CLK_TCK")


class Served:
    """A server that runs, and is gone at the end."""

    def __init__(self, *flags, words=(), data=None, wait=True, **values):
        self.data = data or tempfile.mkdtemp(prefix="data.", dir=folder)
        self.log = tempfile.TemporaryFile("w+", dir=folder)
        self.process = subprocess.Popen(
            [*words, serve, "--ckpt_dir", model, "--server_port", "0", "--data_dir", self.data, *SMALL, *flags],
            env=environment(**values), stdout=subprocess.PIPE, stderr=self.log, text=True, start_new_session=True,
        )  # fmt: skip
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        self.port = int(found[1]) if found else 0
        self.seconds_to_page = seconds_of(self.process.pid) if found else 0
        if wait and self.port:
            self.wait_until(lambda: self.get("/ready")[0] == 200, 120)

    def errors(self):
        self.log.seek(0)
        return self.log.read()

    def ask(self, method, path, body=None, headers=None, limit=60):
        """(status, headers, bytes) of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=limit)
        try:
            headers = dict(headers or {})
            if isinstance(body, dict):
                body = json.dumps(body).encode()
                headers.setdefault("Content-Type", "application/json")
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def get(self, path, **values):
        status, headers, body = self.ask("GET", path, **values)
        return status, json.loads(body) if "json" in (headers["Content-Type"] or "") else body

    def post(self, path, body, **values):
        status, headers, text = self.ask("POST", path, body, **values)
        return status, json.loads(text) if "json" in (headers["Content-Type"] or "") else text

    def make(self, **fields):
        """A job's view, when it is over."""
        status, job = self.post("/v1/videos", {"prompt": PROMPT, **fields})
        return self.over(job["id"]) if status == 200 else job

    def over(self, id):
        self.wait_until(lambda: self.get("/v1/videos/" + id)[1].get("status") not in ("queued", "in_progress"), 120)
        return self.get("/v1/videos/" + id)[1]

    def wait_until(self, is_so, limit):
        end = time.time() + limit
        while time.time() < end:
            try:
                if is_so():
                    return True
            except OSError:
                if self.process.poll() is not None:
                    return False
            time.sleep(0.05)
        return False

    def events(self, path, limit=60):
        """Yields (kind, data) of a stream."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=limit)
        connection.request("GET", path)
        answer = connection.getresponse()
        kind = None
        for line in answer:
            line = line.decode().rstrip("\n")
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                yield kind, json.loads(line[6:])
        connection.close()

    def stop(self, how=signal.SIGTERM, limit=20):
        """(exit code, seconds until it was gone)"""
        begin = time.time()
        self.process.send_signal(how)
        try:
            self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            return "still there", limit
        return self.process.returncode, time.time() - begin

    def kill(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def raw(port, text, limit=5):
    """What is answered to bytes that may be no request."""
    with socket.create_connection(("127.0.0.1", port), timeout=limit) as connection:
        connection.sendall(text if isinstance(text, bytes) else text.encode())
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except (socket.timeout, ConnectionResetError):
            pass
        return answer.decode(errors="replace")


def tensors(blob):
    (length,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + length])
    return {k: blob[8 + length :][slice(*v["data_offsets"])] for k, v in header.items() if k != "__metadata__"}


def code(answer):
    return answer[1]["error"]["code"] if isinstance(answer[1], dict) and "error" in answer[1] else answer


def jobs_and_files():
    with Served("--local_ranks", "2", "--queue", "3") as server:
        check("the page is there after less than two seconds of CPU time", 0 < server.seconds_to_page < 2, server.seconds_to_page)
        status, page = server.get("/")
        check("the page is a page", status == 200 and b"<html" in page, page)
        made = server.make(seed=7, save_tensors=True)
        check("a job is made", made.get("status") == "completed" and made["progress"] == 100, made, server.errors())
        got = server.get("/v1/videos/{}/content?variant=tensors".format(made["id"]))[1]
        own = folder / "own.safetensors"
        done = run([wan_t2v, "--ckpt_dir", model, "--local_ranks", "2", *SMALL, "--prompt", PROMPT, "--base_seed", "7",
                    "--save_file", folder / "own.mp4", "--save_tensors", own])  # fmt: skip
        mine, theirs = tensors(got), tensors(own.read_bytes())
        check("its latents are wan_t2v's, byte by byte", mine.get("latents") == theirs.get("latents") and len(mine["latents"]) > 1000, done)
        again = server.make(**{**made["settings"]})
        same = tensors(server.get("/v1/videos/{}/content?variant=tensors".format(again["id"]))[1])
        check("its settings make it again", same["latents"] == mine["latents"], again)
        for degrees in ({"cfg_size": 1, "ulysses_size": 2, "ring_size": 1}, {"ranks": 1}, {"dit_fsdp": True}, {"pipeline_size": 2}, {"ring_size": 2, "t5_fsdp": True}):
            other = server.make(seed=7, save_tensors=True, **degrees)
            blob = tensors(server.get("/v1/videos/{}/content?variant=tensors".format(other["id"]))[1]) if other.get("status") == "completed" else {}
            far = max(abs(a - b) for a, b in zip(memoryview(blob["latents"]).cast("f"), memoryview(mine["latents"]).cast("f"))) if blob else 9
            check("ranks take other places between jobs: {}".format(degrees), far < 1e-4, other, far)

        id = made["id"]
        whole = server.get("/v1/videos/{}/content".format(id))[1]
        check("the content is an mp4", whole[4:8] == b"ftyp" and len(whole) > 500, whole[:20])
        for header, part in (("bytes=10-19", whole[10:20]), ("bytes=-7", whole[-7:]), ("bytes={}-".format(len(whole) - 3), whole[-3:]), ("bytes=5-" + "9" * 30, whole[5:])):
            status, headers, body = server.ask("GET", "/v1/videos/{}/content".format(id), headers={"Range": header})
            check("a range: " + header, status == 206 and body == part and headers["Content-Range"].endswith("/{}".format(len(whole))), status)
        check("a range outside", server.ask("GET", "/v1/videos/{}/content".format(id), headers={"Range": "bytes=99999999-"})[0] == 416)
        check("several ranges are all of it", server.ask("GET", "/v1/videos/{}/content".format(id), headers={"Range": "bytes=0-1,4-5"})[2] == whole)
        status, headers, body = server.ask("HEAD", "/v1/videos/{}/content".format(id))
        check("HEAD", status == 200 and int(headers["Content-Length"]) == len(whole) and body == b"", status, body)
        for variant in ("thumbnail", "spritesheet"):
            check(variant, server.get("/v1/videos/{}/content?variant={}".format(id, variant))[1][:4] == b"\x89PNG")

        boundary = "x" * 20
        form = "".join('--{}\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'.format(boundary, k, v) for k, v in
                       dict(prompt=PROMPT, size="64x64", seconds="1", fps="4", num_inference_steps="2", seed="7").items()) + "--" + boundary + "--\r\n"  # fmt: skip
        status, job = server.post("/v1/videos", form.encode(), headers={"Content-Type": "multipart/form-data; boundary=" + boundary})
        check("a form", status == 200 and job["settings"]["num_frames"] == 5 and job["seed"] == 7, job)
        server.over(job["id"])
        status, headers, body = server.ask("POST", "/v1/videos/sync", {"prompt": PROMPT})
        check("sync", status == 200 and body[4:8] == b"ftyp" and headers["X-Video-Id"].startswith("video_"), status, body[:300])

        listed = server.get("/v1/videos?limit=2")[1]
        check("a list", len(listed["data"]) == 2 and listed["has_more"] and listed["data"][0]["id"] == headers["X-Video-Id"], listed)
        rest = server.get("/v1/videos?limit=100&after=" + listed["last_id"])[1]
        check("the rest of it", len(rest["data"]) >= 5 and not rest["has_more"] and rest["data"][-1]["id"] == id, rest)
        deleted = server.ask("DELETE", "/v1/videos/" + again["id"])
        check("delete", deleted[0] == 200 and json.loads(deleted[2]) == {"id": again["id"], "object": "video.deleted", "deleted": True}, deleted)
        check("deleted is gone", server.get("/v1/videos/" + again["id"])[0] == 404 and not (pathlib.Path(server.data) / "videos" / again["id"]).exists())

        # A long job, seen from all sides, then stopped.
        long = dict(prompt=PROMPT, size="128*128", num_frames=17, num_inference_steps=1000)
        job = server.post("/v1/videos", long)[1]
        waits = [server.post("/v1/videos", {"prompt": "=1+1"})[1] for _ in range(3)]
        refused = server.ask("POST", "/v1/videos", {"prompt": PROMPT})
        check("a full queue", refused[0] == 429 and int(refused[1]["Retry-After"]) > 0, refused)
        check("places in the queue", [server.get("/v1/videos/" + w["id"])[1]["queue_position"] for w in waits] == [1, 2, 3])
        seen, previews, last, is_cancelled = [], 0, None, False
        for kind, data in server.events("/v1/videos/{}/events".format(job["id"])):
            if kind == "job":
                last = data
                seen.append((data["phase"], data["step"]))
            if kind == "preview" and base64.b64decode(data["image"].split(",")[1])[:4] == b"\x89PNG":
                previews += 1
            if previews > 1 and len(seen) > 4 and not is_cancelled:
                is_cancelled = True
                check("cancel", server.post("/v1/videos/{}/cancel".format(job["id"]), {})[0] == 200)
        check("events until it is cancelled, with previews", last["status"] == "cancelled" and previews > 1 and ("denoise", 1) in seen, last, seen[:9])
        check("the next one begins", server.wait_until(lambda: server.get("/v1/videos/" + waits[0]["id"])[1]["status"] != "queued", 10))
        for wait in waits:
            check("those behind it are made", server.over(wait["id"])["status"] == "completed", wait)

        status, plan = server.post("/v1/plan", {"ranks": 2, "cfg_size": 2})
        check("a plan", status == 200 and plan["possible"] and plan["degrees"]["cfg_size"] == 2 and plan["memory"], plan)
        status, plan = server.get("/v1/plan?size=16384x16384&num_frames=4093")
        check("a plan that cannot be", status == 200 and not plan["possible"] and "16384" in plan["reason"], plan)
        check("models", server.get("/v1/models")[1]["data"][0]["id"] == "model" and server.get("/v1/models/model")[0] == 200)
        check("another model", code(server.post("/v1/videos", {"prompt": "x", "model": "sora-2"})) == "model_not_found")
        status, rows = server.get("/v1/history?status=completed&q=red+BALL")
        check("the history", status == 200 and all(r["status"] == "completed" and r["prompt"] == PROMPT for r in rows["data"]) and rows["totals"]["cancelled"] == 1, rows)
        text = server.get("/v1/history?format=csv")[1].decode()
        check("as a table without formulas", text.startswith("id,status,") and ",'=1+1\r\n" in text, text)
        metrics = server.get("/metrics")[1].decode()
        numbers = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line and line[0] != "#")
        ended = sum(int(numbers['wanpar_requests_total{{status="{}"}}'.format(s)]) for s in ("completed", "failed", "cancelled"))
        check("metrics add up", int(numbers["wanpar_requests_accepted_total"]) == ended and numbers["wanpar_requests_refused_total"] == "1" and float(numbers['wanpar_rank_step_seconds{rank="1"}']) > 0, metrics)
        check("each rank has memory", [r["memory_bytes"] > 1e6 for r in server.get("/v1/status")[1]["ranks"]] == [True, True])
        openapi = server.get("/openapi.json")[1]
        check("openapi", openapi["openapi"].startswith("3.1") and "/v1/videos" in openapi["paths"])

        done = run([wan_t2v, "--serve", "http://127.0.0.1:{}".format(server.port), "--prompt", PROMPT, "--base_seed", "7", "--size", "64*64",
                    "--save_file", folder / "there.mp4", "--save_tensors", folder / "there.safetensors"])  # fmt: skip
        check("wan_t2v --serve", done.status == 0 and done.out == "{}\n".format(folder / "there.mp4") and "denoise" in done.error and
              tensors((folder / "there.safetensors").read_bytes())["latents"] == mine["latents"], done)  # fmt: skip
        for words, sentence in ((["--local_ranks", "2"], "--local_ranks is the server's own business"), (["--sample_steps", "9000"], "--sample_steps 9000 is out of range")):
            done = run([wan_t2v, "--serve", "http://127.0.0.1:{}".format(server.port), "--prompt", "x", *words])
            check("refused: " + sentence, done.status == 2 and sentence in done.error and len(done.error.splitlines()) == 1, done)
        done = run([wan_t2v, "--serve", "http://127.0.0.1:1", "--prompt", "x"])
        check("no server", done.status == 1 and "is a wan_serve there?" in done.error and len(done.error.splitlines()) == 1, done)

        gone = socket.create_connection(("127.0.0.1", server.port))
        body = json.dumps(long)
        gone.sendall("POST /v1/videos/sync HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}".format(len(body), body).encode())
        server.wait_until(lambda: server.get("/v1/status")[1]["queue"]["running"], 10)
        id = server.get("/v1/status")[1]["queue"]["running"]
        gone.close()
        check("who does not wait for sync has it cancelled", server.over(id)["status"] == "cancelled")

        server.post("/v1/videos", long)
        queued = server.post("/v1/videos", {"prompt": PROMPT})[1]
        server.wait_until(lambda: server.get("/v1/status")[1]["queue"]["running"], 10)
        running = server.get("/v1/status")[1]["queue"]["running"]
        status, seconds = server.stop()
        check("SIGTERM ends it soon", status == -signal.SIGTERM and seconds < 15, status, seconds, server.errors())
        with Served("--local_ranks", "2", data=server.data) as after:
            failed = after.get("/v1/videos/" + running)[1]
            check("what ran then has failed, and says why", failed["status"] == "failed" and failed["error"]["code"] == "server_shutdown", failed)
            check("what waited is made", after.over(queued["id"])["status"] == "completed")
            check("videos are still there", after.get("/v1/videos/{}/content".format(made["id"]))[1] == whole)
            check("no file is left half-written", not list(pathlib.Path(server.data).rglob("*.part")))
            job = after.post("/v1/videos", long)[1]
            after.wait_until(lambda: after.get("/v1/videos/" + job["id"])[1]["phase"] == "denoise", 20)
            after.kill()
        with Served(data=server.data) as killed:
            failed = killed.get("/v1/videos/" + job["id"])[1]
            check("what ran when it was killed has failed", failed["status"] == "failed" and failed["error"]["code"] == "server_shutdown", failed)
            second = run([serve, "--ckpt_dir", model, "--server_port", "0", "--data_dir", server.data])
            check("a folder is one server's", second.status == 1 and "in use by another wan_serve" in second.error, second)
            held = run([serve, "--ckpt_dir", model, "--server_port", str(killed.port), "--data_dir", folder / "other"])
            check("a port is one program's", held.status == 1 and "another program holds it" in held.error and len(held.error.splitlines()) == 1, held)


def quota():
    with Served("--quota_gib", "0.001") as server:  # a MiB, nearly
        jobs = [server.make(size="128x128", num_frames=17, save_tensors=True) for _ in range(2)]
        old = server.get("/v1/videos/" + jobs[0]["id"])[1]
        check("the oldest files go", old["status"] == "completed" and old["expires_at"] and code(server.get("/v1/videos/{}/content".format(old["id"]))) == "expired", old)
        check("the newest stay", server.get("/v1/videos/{}/content".format(jobs[1]["id"]))[0] == 200)


def rules():
    keys = folder / "keys"
    keys.write_text("ann:0123456789abcdef\nbob:fedcba9876543210\n")
    with Served("--api_key_file", str(keys), "--cors_origin", "https://friend.example") as server:
        ann, bob = ({"Authorization": "Bearer " + k} for k in ("0123456789abcdef", "fedcba9876543210"))
        check("without a key", code(server.get("/v1/videos")) == "invalid_api_key" and server.get("/metrics")[0] == 401)
        check("with another key", server.get("/v1/videos", headers={"Authorization": "Bearer 0123456789abcdeg"})[0] == 401)
        check("the page and /health need none", server.get("/")[0] == 200 and server.get("/health")[0] == 200)
        job = server.post("/v1/videos", {"prompt": PROMPT}, headers=ann)[1]
        check("one's own", server.get("/v1/videos/" + job["id"], headers=ann)[0] == 200 and len(server.get("/v1/videos", headers=ann)[1]["data"]) == 1)
        check("not another's", server.get("/v1/videos/" + job["id"], headers=bob)[0] == 404 and server.get("/v1/videos", headers=bob)[1]["data"] == [] and
              server.ask("DELETE", "/v1/videos/" + job["id"], headers=bob)[0] == 404 and server.get("/v1/history", headers=bob)[1]["data"] == [])  # fmt: skip
        status, headers, _ = server.ask("POST", "/v1/session", {"token": "0123456789abcdef"})
        cookie = headers["Set-Cookie"] or ""
        check("a session", status == 204 and "HttpOnly" in cookie and "SameSite=Strict" in cookie and "0123456789abcdef" not in cookie)
        check("by its cookie", server.get("/v1/videos/" + job["id"], headers={"Cookie": cookie.split(";")[0]})[0] == 200)
        check("no session for another key", server.ask("POST", "/v1/session", {"token": "0"})[0] == 401)
        status, headers, _ = server.ask("GET", "/?token=0123456789abcdef")
        check("a session by the page's address", status == 303 and headers["Location"] == "/" and headers["Set-Cookie"])
        own = {"Origin": "http://127.0.0.1:{}".format(server.port), **ann}
        check("its own page may ask", server.post("/v1/plan", {}, headers=own)[0] == 200)
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
            check("not the page of " + origin, code(server.post("/v1/plan", {}, headers={"Origin": origin, **ann})) == "origin_not_allowed")
        check("nor may it delete", server.ask("DELETE", "/v1/videos/" + job["id"], headers={"Origin": "http://evil.example", **ann})[0] == 403)
        status, headers, _ = server.ask("POST", "/v1/plan", {}, headers={"Origin": "https://friend.example", **ann})
        check("a friend may", status == 200 and headers["Access-Control-Allow-Origin"] == "https://friend.example")
        check("others get no CORS", server.ask("GET", "/health", headers={"Origin": "http://evil.example"})[1]["Access-Control-Allow-Origin"] is None)
        for host, wanted in (("localhost", 200), ("127.0.0.1:99", 200), ("evil.example", 403), ("localhost.evil.example:80", 403)):
            check("Host " + host, raw(server.port, "GET /health HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n".format(host)).startswith("HTTP/1.1 {} ".format(wanted)))
        _, headers, _ = server.ask("GET", "/")
        check("the page is told what it may", "default-src 'self'" in headers["Content-Security-Policy"] and headers["X-Content-Type-Options"] == "nosniff")
    done = run([serve, "--ckpt_dir", model, "--server_host", "0.0.0.0", "--data_dir", folder / "none"])
    check("from elsewhere only with a key", done.status == 2 and "there is no key" in done.error and len(done.error.splitlines()) == 1, done)
    with Served("--data_dir2", "x", wait=False) as wrong:
        wrong.process.wait(20)
        check("a flag that is none", wrong.process.returncode == 2 and "did you mean --data_dir?" in wrong.errors(), wrong.errors())


def malformed():
    with Served() as server:
        for body, wanted, param in (
            ({}, "missing_field", "prompt"), ({"prompt": ""}, "invalid_value", "prompt"), ({"prompt": 3}, "invalid_value", "prompt"), ({"prompt": "x" * 9000}, "invalid_value", "prompt"),
            ({"prompt": "x", "num_frames": 6}, "invalid_value", "num_frames"), ({"prompt": "x", "size": "100x100"}, "invalid_value", "size"), ({"prompt": "x", "size": "1" * 99}, "invalid_value", "size"),
            ({"prompt": "x", "num_inference_steps": 1.5}, "invalid_value", "num_inference_steps"), ({"prompt": "x", "seed": -2}, "invalid_value", "seed"), ({"prompt": "x", "ranks": 2}, "not_possible", "ranks"),
            ({"prompt": "x", "step": 1}, "unknown_field", "step"), ({"prompt": "x", "ulysses_size": 3}, "not_possible", "cfg_size"), ({"prompt": "x", "width": 64}, "invalid_value", "height"),
            ({"prompt": "x", "seconds": "much"}, "invalid_value", "seconds"), ({"prompt": "x", "size": "16384x16384", "num_frames": 4093}, "not_possible", "size"), ({"prompt": "x", "save_file": "/etc/passwd"}, "unknown_field", "save_file"),
            ({"prompt": "x", "input_reference": "y"}, "unknown_field", "input_reference"), ({"prompt": "x", "guidance_scale": "--help"}, "invalid_value", "guidance_scale"),
        ):  # fmt: skip
            status, answer = server.post("/v1/videos", body)
            error = answer.get("error", {}) if isinstance(answer, dict) else {}
            check("refused: {}".format(str(body)[:70]), status == 400 and error.get("code") == wanted and error.get("param") == param and "--" not in error["message"], answer)
        for text in (b"", b"[]", b"{", b'{"prompt":"x","prompt":"y"}', b"[" * 100000, b'{"prompt":"\xff"}', b"\x00" * 100):
            check("no JSON: {}".format(text[:30]), code(server.post("/v1/videos", text, headers={"Content-Type": "application/json"})) == "invalid_json")
        check("no type", code(server.post("/v1/videos", b"x")) == "unsupported_media_type")
        for form in (b"", b"--b", b"--b\r\n", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--", b'--b\r\nContent-Disposition: form-data; name="prompt"; filename="x"\r\n\r\nx\r\n--b--\r\n'):
            check("no form: {}".format(form[:30]), code(server.post("/v1/videos", form, headers={"Content-Type": "multipart/form-data; boundary=b"})) == "invalid_form")
        check("a large body", server.ask("POST", "/v1/videos", b"x" * (2 << 20), {"Content-Type": "application/json"})[0] == 413)
        check("no such path", server.get("/v2/videos")[0] == 404 and server.get("/v1/videos/x/y/z")[0] == 404 and server.get("/v1/videos/video_x")[0] == 404)
        check("not this method", (answer := server.ask("PUT", "/v1/videos"))[0] == 405 and "POST" in answer[1]["Allow"], answer)
        for path in ("/../jobs.sqlite", "/%2e%2e/jobs.sqlite", "/v1/videos/..%2f..%2fjobs.sqlite", "/v1/videos/../content", "//etc/passwd", "/page/index.html"):
            check("no file of the disk: " + path, raw(server.port, "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".format(path)).startswith("HTTP/1.1 404"))
        head = "POST /v1/plan HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        for text, wanted in (
            ("nonsense\r\n\r\n", "400"), ("GET / HTTP/3.0\r\nHost: localhost\r\n\r\n", "400 505"), ("GET / HTTP/1.1\r\n\r\n", "400"), ("GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", "400"),
            ("GET http://evil/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", "400"), ("GET / HTTP/1.1\r\nHost: localhost\r\nX: " + "y" * 9000 + "\r\n\r\n", "431"),
            ("GET / HTTP/1.1\r\nHost: localhost\r\n" + "".join("a{}: b\r\n".format(i) for i in range(120)) + "\r\n", "431"),
            (head + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "400"), (head + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "400"),
            (head + "Content-Length: -2\r\n\r\n{}", "400"), (head + "Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n", "400"), (head + "Transfer-Encoding: gzip\r\n\r\n{}", "400"),
            (head + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "200"), (head + "Content-Length: 99999999999999999999\r\n\r\n{}", "400 413"), (head + "Transfer-Encoding: chunked\r\n\r\nfffffff\r\n", "413"),
        ):  # fmt: skip
            answer = raw(server.port, text)
            check("{} for {!r}".format(wanted, text[:60]), answer[9:12] in wanted.split(), answer[:200])
        begin = time.time()
        answer = raw(server.port, "GET / HTTP/1.1\r\nHost: lo", limit=20)
        check("a header that does not come is not waited for", answer == "" and 4 < time.time() - begin < 15, answer, time.time() - begin)
        slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
        for one in slow:
            one.sendall(b"GET / HTTP/1.1\r\n")
        check("300 that say nothing keep nobody out", all(server.get("/health")[0] == 200 for _ in range(20)))
        for one in slow:
            one.close()
        check("it lives", server.make().get("status") == "completed", server.errors())


def lost(how, is_idle, launcher):
    """A rank of three is killed or stopped, in a job or while all wait."""
    words = [wanrun, "-n", "3", "--"] if launcher == "wanrun" else torchrun(python, 3, [])
    with Served(words=words) as server:
        job = {"id": None} if is_idle else server.post("/v1/videos", dict(prompt=PROMPT, size="128*128", num_frames=17, num_inference_steps=1000, guidance_scale=1))[1]
        if not is_idle:
            server.wait_until(lambda: server.get("/v1/videos/" + job["id"])[1]["phase"] == "denoise", 30)
        ranks = [int(p.name) for p in pathlib.Path("/proc").iterdir() if p.name.isdigit() and is_rank(p.name, server)]
        victim = next(p for p in ranks if b"\0RANK=1\0" in pathlib.Path("/proc/{}/environ".format(p)).read_bytes())
        begin = time.time()
        os.kill(victim, how)
        server.wait_until(lambda: "rank 1" in server.errors(), 20)
        named = time.time() - begin
        try:
            server.process.wait(30)
        except subprocess.TimeoutExpired:
            pass
        left = [p for p in ranks if is_rank(p, server)]
        what = "{} {} under {}".format(how.name, "idle" if is_idle else "in a job", launcher)
        check("{}: rank 1 is named, after {:.1f} s".format(what, named), named < 10, server.errors())
        check("{}: nothing is left, and the exit says so".format(what), server.process.returncode not in (0, None) and not left, server.process.returncode, left)
        for line in left:
            os.kill(line, signal.SIGKILL)
    if not is_idle:
        with Served(data=server.data) as after:
            failed = after.get("/v1/videos/" + job["id"])[1]
            check("{}: the job has failed with that reason".format(what), failed["status"] == "failed" and failed["error"]["code"] == "rank_failed" and "rank 1" in failed["error"]["message"], failed)


def is_rank(pid, server):
    try:
        text = pathlib.Path("/proc/{}/cmdline".format(pid)).read_bytes()
        return text.startswith(serve.encode() + b"\0") and server.data.encode() in text and pathlib.Path("/proc/{}/stat".format(pid)).read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


groups = {"jobs": [jobs_and_files], "quota": [quota], "rules": [rules], "malformed": [malformed],
          "lost": [lambda: lost(signal.SIGKILL, False, "wanrun"), lambda: lost(signal.SIGSTOP, True, "wanrun"), lambda: lost(signal.SIGSTOP, False, "torchrun")]}  # fmt: skip
for name, parts in groups.items():
    if len(sys.argv) > 6 and name not in sys.argv[6:]:
        continue
    for part in parts:
        part()
finish()
