#!/usr/bin/env python3
"""One SFTP operation by paramiko, a client that looks back after each put, and that shows the server's own words.

    paramiko_client.py PORT USER KEYFILE put LOCAL REMOTE     prints `size N` as found after the put
    paramiko_client.py PORT USER KEYFILE stat|remove|mkdir|rmdir|listdir|open REMOTE
    paramiko_client.py PORT USER KEYFILE rename FROM TO
On a refusal it prints `refused: TEXT` and ends with 1.
"""
import sys

import paramiko


def main():
    port, user, key, what, *paths = sys.argv[1:]
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect("127.0.0.1", int(port), user, key_filename=key, allow_agent=False, look_for_keys=False, timeout=30)
    sftp = client.open_sftp()
    try:
        if what == "put":
            print("size", sftp.put(*paths).st_size)
        elif what == "open":
            with sftp.open(paths[0], "w") as file:
                file.write("x")
            print("written")
        else:
            print(getattr(sftp, what)(*paths))
    except OSError as error:
        print(f"refused: {error}")
        sys.exit(1)
    finally:
        client.close()


main()
