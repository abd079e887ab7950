import io
import json
import logging

from tuning.logs import configure_logging


def test_a_text_line_has_time_level_logger_and_message() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    logging.getLogger("room").info("did it file=%s", "a")
    line = stream.getvalue()
    assert line.endswith("INFO room: did it file=a\n")
    assert line[10] == "T"
    assert "Z INFO" in line


def test_a_json_line_is_one_object_with_the_traceback_inside() -> None:
    stream = io.StringIO()
    configure_logging("json", stream=stream)
    try:
        raise ValueError("https://u:s3cret@h/")
    except ValueError:
        logging.getLogger("room").exception("failed")
    [line] = stream.getvalue().splitlines()
    content = json.loads(line)
    assert content["level"] == "error"
    assert "ValueError" in content["traceback"]
    assert "s3cret" not in line


def test_secrets_never_reach_the_log() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    logging.getLogger("room").warning("fetching %s", "https://host/x?sig=s3cret")
    assert "s3cret" not in stream.getvalue()


def test_libraries_that_print_queries_are_quiet() -> None:
    stream = io.StringIO()
    configure_logging(level="debug", stream=stream)
    logging.getLogger("urllib3.connectionpool").debug("GET /x?sig=s3cret")
    assert stream.getvalue() == ""
