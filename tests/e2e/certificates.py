"""Certificates of the tests' own authorities, made with the openssl program."""
import datetime
import subprocess

YEAR = datetime.timedelta(days=365)


def openssl(*args, text=None):
    subprocess.run(["openssl", *args], input=text, text=True, check=True, timeout=60,
                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def date(when):
    return when.strftime("%Y%m%d%H%M%SZ")


class Certificate:
    """Files in PEM: `cert`, and `key` (encrypted if `password`)."""

    def __init__(self, path):
        self.cert, self.key = f"{path}.crt", f"{path}.key"


class Authority(Certificate):
    """Signs certificates that lie in `directory`; its own is self-signed."""

    def __init__(self, directory, name="authority"):
        super().__init__(directory / name)
        self.directory = directory
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-subj", f"/CN={name}", "-days", "30", "-keyout", self.key, "-out", self.cert,
                "-addext", "keyUsage=critical,keyCertSign")

    def issue(self, name, alternatives="DNS:localhost,IP:127.0.0.1", age=YEAR / 12, life=YEAR / 6,
              password=None):
        """A certificate that began to be valid `age` ago and is for `life`."""
        made = Certificate(self.directory / name)
        config = self.directory / f"{name}.cnf"
        database = self.directory / f"{name}.db"
        database.write_text("")
        begin = datetime.datetime.now(datetime.timezone.utc) - age
        config.write_text(
            f"[ca]\ndefault_ca=x\n[x]\ndatabase={database}\nnew_certs_dir={self.directory}\n"
            f"rand_serial=yes\ndefault_md=sha256\npolicy=p\nx509_extensions=e\n"
            f"[p]\ncommonName=supplied\n[e]\nsubjectAltName={alternatives}\n")
        secret = ["-passout", f"pass:{password}"] if password else ["-nodes"]
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *secret,
                "-subj", f"/CN={name}", "-keyout", made.key, "-out", f"{made.cert}.req")
        openssl("ca", "-batch", "-notext", "-config", str(config), "-cert", self.cert, "-keyfile",
                self.key, "-in", f"{made.cert}.req", "-out", made.cert, "-startdate", date(begin),
                "-enddate", date(begin + life))
        return made
