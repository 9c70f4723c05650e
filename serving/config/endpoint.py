"""What does the HTTP surface look like?"""

import re
from dataclasses import dataclass

from serving.config.setting import require, require_known, setting

TOOL_CALL_PARSERS = ("auto", "none", "hermes", "llama3_json", "mistral")
LOG_LEVELS = ("critical", "error", "warning", "info", "debug", "trace")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\sA-Z]+")
"""An origin as browsers send it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """The HTTP surface."""

    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(8000, "Port to listen on.")
    root_path: str = setting("", "Path prefix when behind a proxy, such as /llm.")
    uvicorn_log_level: str = setting("info", "Log level of the HTTP server: critical to trace.")
    access_log: bool = setting(
        True, "Log a line for every request when it has ended; probes that succeed have none."
    )
    served_model_name: tuple[str, ...] = setting((), "Name(s) of the model in the API.")
    api_key: tuple[str, ...] = setting((), "Accepted bearer key(s); none: open.", secret=True)
    allowed_origins: tuple[str, ...] = setting(
        (),
        "Origin(s) whose pages may call this server from a browser, or a JSON list of them; *: all "
        "may; none: no page may.",
        json_list=True,
    )
    max_body_bytes: int = setting(16 * 1024 * 1024, "Largest request body.")
    max_logprobs: int = setting(20, "Most alternatives a completion may ask for.")
    max_stored_responses: int = setting(
        10_000, "Responses kept for previous_response_id; 0: none is."
    )
    max_stored_bytes: int = setting(256 * 1024 * 1024, "Memory for kept responses.")
    stored_response_seconds: float = setting(
        86_400.0, "How long a response is kept that nobody continues or asks for."
    )
    stream_interval: int = setting(1, "Tokens per streamed chunk.")
    tool_call_parser: str = setting("auto", f"How calls are read: {', '.join(TOOL_CALL_PARSERS)}.")
    enable_request_id_headers: bool = setting(False, "Echo or make X-Request-Id.")
    enable_force_include_usage: bool = setting(False, "Send usage in every stream.")
    enable_admin_api: bool = setting(False, "Serve the operator endpoints.")

    def __post_init__(self) -> None:
        """Raise ConfigError for values no socket or client can take."""
        require(0 <= self.port < 65536, "--port must lie between 0 and 65535")
        require(
            re.fullmatch("(/[^/]+)*", self.root_path) is not None,
            f"--root-path {self.root_path} must begin with / and not end with one",
        )
        require_known("--uvicorn-log-level", self.uvicorn_log_level, LOG_LEVELS)
        require_known("--tool-call-parser", self.tool_call_parser, TOOL_CALL_PARSERS)
        require(self.max_body_bytes >= 1024, "--max-body-bytes must be at least 1024")
        require(0 <= self.max_logprobs <= 20, "--max-logprobs must lie between 0 and 20")
        require(self.max_stored_responses >= 0, "--max-stored-responses must not be negative")
        require(self.max_stored_bytes >= 0, "--max-stored-bytes must not be negative")
        require(self.stored_response_seconds > 0, "--stored-response-seconds must be positive")
        require(self.stream_interval >= 1, "--stream-interval must be at least 1")
        require(
            all(key and key == key.strip() for key in self.api_key),
            "an --api-key is empty or has spaces around it, and no client could send it; is the"
            " variable that should hold it set?",
        )
        for origin in self.allowed_origins:
            require(
                origin == "*" or ORIGIN.fullmatch(origin) is not None,
                f"--allowed-origins {origin}: an origin is scheme://host or scheme://host:port, in"
                " lower case and without a path; or *",
            )
