"""Moves money between two accounts of a Meridian cluster, from Python.

    python transfer.py [HOST:PORT]

Nothing but grpcio and the proto is needed. The one thing to get right is the retry: ABORTED always means
"nothing happened, run it again from the start"; a broken connection during Commit means "ask Outcome".
"""

import sys
import time
import uuid

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from meridian.v1 import kv_pb2, kv_pb2_grpc

DEADLINE_S = 10


def error_info(error):
    """The google.rpc.ErrorInfo of an error, or None when the error is only the transport's."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
            return info
    return None


def committed(kv, begun, handle):
    """Commits. True: it is done. False: it is surely not done, run it again."""
    try:
        kv.Commit(kv_pb2.CommitRequest(transaction=handle), timeout=DEADLINE_S)
        return True
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.ABORTED:
            return False
        if error_info(error) is not None and error.code() != grpc.StatusCode.UNKNOWN:
            raise
        # The reply was lost. The answer to Outcome is final: what has not committed by then never will.
        answer = kv.Outcome(kv_pb2.OutcomeRequest(token=begun.token), timeout=DEADLINE_S)
        return answer.outcome == kv_pb2.OutcomeResponse.COMMITTED


def transfer(kv, source, target, amount):
    """Moves `amount`, however often it takes. Returns the number of attempts."""
    min_start = 0
    for attempt in range(1, 51):
        try:
            begun = kv.Begin(
                kv_pb2.BeginRequest(txn_id=uuid.uuid4().bytes, min_start=min_start), timeout=DEADLINE_S
            )
            handle = begun.transaction
            balances = []
            for account in (source, target):
                got = kv.Get(kv_pb2.GetRequest(transaction=handle, key=account), timeout=DEADLINE_S)
                balances.append(int(got.value or b"0"))
            if balances[0] < amount:
                kv.Rollback(kv_pb2.RollbackRequest(transaction=handle), timeout=DEADLINE_S)
                raise ValueError(f"{source.decode()} holds only {balances[0]}")
            for account, balance in ((source, balances[0] - amount), (target, balances[1] + amount)):
                put = kv_pb2.PutRequest(transaction=handle, key=account, value=str(balance).encode())
                kv.Put(put, timeout=DEADLINE_S)
            if committed(kv, begun, handle):
                return attempt
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE):
                raise
            info = error_info(error)
            # A retry that begins at or after this does not meet the same conflict.
            min_start = int(info.metadata.get("min_start", 0)) if info else 0
        time.sleep(0.01 * attempt)
    raise RuntimeError("the cluster did not let the transfer through in 50 attempts")


def main():
    endpoint = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7400"
    with grpc.insecure_channel(endpoint) as channel:
        kv = kv_pb2_grpc.KvStub(channel)
        kv.Execute(
            kv_pb2.ExecuteRequest(
                txn_id=uuid.uuid4().bytes,
                mutations=[
                    kv_pb2.Mutation(key=b"python/alice", value=b"100"),
                    kv_pb2.Mutation(key=b"python/bob", value=b"0"),
                ],
            ),
            timeout=DEADLINE_S,
        )
        attempts = transfer(kv, b"python/alice", b"python/bob", 30)
        begun = kv.Begin(kv_pb2.BeginRequest(read_only=True), timeout=DEADLINE_S)
        scan = kv_pb2.ScanRequest(transaction=begun.transaction, start=b"python/", end=b"python0")
        for page in kv.Scan(scan, timeout=DEADLINE_S):
            for row in page.rows:
                print(f"{row.key.decode()} = {row.value.decode()}")
        # Ends it; what is left open is rolled back by the server when it has been idle for too long.
        kv.Commit(kv_pb2.CommitRequest(transaction=begun.transaction), timeout=DEADLINE_S)
        print(f"moved 30 in {attempts} attempt{'s' if attempts > 1 else ''}")


if __name__ == "__main__":
    main()
