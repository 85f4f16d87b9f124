"""A client of wan_serve, of the standard library alone. Every wait has a time limit."""

import http.client
import json
import os
import queue
import socket
import threading
import urllib.parse

from .refused import Refused

PATIENCE = 30  # seconds for an answer
QUIET = 1  # seconds after which a stream that is silent gives its reader a turn
SILENCE = 40  # seconds without a word of the stream, which has one each 15


class Server:
    """A running wan_serve at `url`, asked with `key` where it wants one."""

    def __init__(self, url, key=None):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused("'{}' is not the address of a server; write it as in http://127.0.0.1:7860".format(url))
        self.url = url.rstrip("/")
        self.key = key
        self.parts = parts

    def _open(self, method, path, body=None, timeout=PATIENCE):
        kind = http.client.HTTPSConnection if self.parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self.parts.hostname, self.parts.port, timeout=timeout)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self.key:
            headers["Authorization"] = "Bearer " + self.key
        try:
            connection.request(method, self.parts.path.rstrip("/") + path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
        except OSError as error:
            connection.close()
            raise ConnectionError("wan_serve at {} does not answer ({})".format(self.url, error)) from error
        if response.status >= 300:
            try:
                raise self._error(response)
            finally:
                connection.close()
        return connection, response

    def _error(self, response):
        """What the server refuses, in its own sentence."""
        try:
            told = json.loads(response.read())["error"]["message"]
        except (ValueError, KeyError, TypeError):
            told = "{} {}".format(response.status, response.reason)
        return Refused("wan_serve at {}: {}".format(self.url, told))

    def ask(self, method, path, body=None):
        connection, response = self._open(method, path, body)
        try:
            return json.loads(response.read())
        finally:
            connection.close()

    def status(self):
        return self.ask("GET", "/v1/status")

    def plan(self, settings):
        return self.ask("POST", "/v1/plan", settings)

    def create(self, settings):
        return self.ask("POST", "/v1/videos", settings)

    def job(self, name):
        return self.ask("GET", "/v1/videos/" + name)

    def cancel(self, name):
        """Stops a job; one that is over already stays as it is."""
        try:
            self.ask("POST", "/v1/videos/{}/cancel".format(name), {})
        except Refused:
            pass

    def events(self, name):
        """The events of a job as (kind, data) until it is over; (None, None) where a second has passed without any."""
        connection, response = self._open("GET", "/v1/videos/{}/events".format(name), timeout=SILENCE)
        told = queue.SimpleQueue()
        threading.Thread(target=_read_events, args=(response, told), daemon=True).start()
        try:
            while True:
                try:
                    kind, data = told.get(timeout=QUIET)
                except queue.Empty:
                    yield None, None
                    continue
                if kind is None:
                    return
                yield kind, data
        finally:
            # The reader may be waiting in the socket; closing alone would not wake it.
            if connection.sock:
                connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()

    def save(self, name, file, variant="video"):
        """Writes what a job has made to `file`, whole or not at all."""
        connection, response = self._open("GET", "/v1/videos/{}/content?variant={}".format(name, variant))
        part = "{}.{}.part".format(file, os.getpid())
        try:
            expected = response.length
            with open(part, "wb") as out:
                while chunk := response.read(1 << 20):
                    out.write(chunk)
                if expected is not None and out.tell() != expected:
                    raise ConnectionError("wan_serve at {} broke off after {} of {} bytes".format(self.url, out.tell(), expected))
            os.replace(part, file)
        finally:
            connection.close()
            if os.path.exists(part):
                os.remove(part)


def _read_events(response, told):
    """Puts each server-sent event of a response into `told`, and (None, None) where it ends or breaks off."""
    try:
        kind, data = "message", []
        for line in response:
            field, _, value = line.decode().rstrip("\r\n").partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                kind = value
            elif field == "data":
                data.append(value)
            elif not line.strip():
                if data:
                    told.put((kind, json.loads("\n".join(data))))
                kind, data = "message", []
    except (OSError, ValueError, AttributeError, http.client.HTTPException):
        pass  # whoever reads asks what has become of the job
    told.put((None, None))
