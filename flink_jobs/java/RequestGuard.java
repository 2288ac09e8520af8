package nearline.flink;

import java.nio.charset.StandardCharsets;
import java.util.Set;
import org.apache.flink.shaded.netty4.io.netty.buffer.Unpooled;
import org.apache.flink.shaded.netty4.io.netty.channel.ChannelFutureListener;
import org.apache.flink.shaded.netty4.io.netty.channel.ChannelHandlerContext;
import org.apache.flink.shaded.netty4.io.netty.channel.ChannelInboundHandlerAdapter;
import org.apache.flink.shaded.netty4.io.netty.handler.codec.http.DefaultFullHttpResponse;
import org.apache.flink.shaded.netty4.io.netty.handler.codec.http.HttpHeaders;
import org.apache.flink.shaded.netty4.io.netty.handler.codec.http.HttpRequest;
import org.apache.flink.shaded.netty4.io.netty.handler.codec.http.HttpResponseStatus;
import org.apache.flink.shaded.netty4.io.netty.handler.codec.http.HttpVersion;
import org.apache.flink.shaded.netty4.io.netty.util.ReferenceCountUtil;

/** Refuses what a browser sends for another site's page, before a byte of its body is kept. */
class RequestGuard extends ChannelInboundHandlerAdapter {
    private final Set<String> hosts;
    private boolean isRefused = false;

    RequestGuard(Set<String> hosts) {
        this.hosts = hosts;
    }

    public void channelRead(ChannelHandlerContext context, Object message) {
        if (isRefused) {
            ReferenceCountUtil.release(message);
        } else if (message instanceof HttpRequest && isForeign(((HttpRequest) message).headers())) {
            isRefused = true;
            ReferenceCountUtil.release(message);
            refuse(context);
        } else {
            context.fireChannelRead(message);
        }
    }

    /** A host name that is not ours is another site's that was pointed here; "none" is an address that a person typed. */
    private boolean isForeign(HttpHeaders headers) {
        String host = headers.get("Host");
        String origin = headers.get("Origin");
        String site = headers.get("Sec-Fetch-Site");
        boolean isOurs = host != null && hosts.contains(host.toLowerCase().replaceFirst(":[0-9]+$", ""));
        boolean isFromOurs = origin == null || origin.equalsIgnoreCase("http://" + host);
        boolean isSameSite = site == null || site.equals("same-origin") || site.equals("none");
        return !(isOurs && isFromOurs && isSameSite);
    }

    private void refuse(ChannelHandlerContext context) {
        byte[] why = "{\"errors\":[\"not from another site's page\"]}".getBytes(StandardCharsets.UTF_8);
        DefaultFullHttpResponse answer =
                new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, HttpResponseStatus.FORBIDDEN, Unpooled.wrappedBuffer(why));
        answer.headers().set("Content-Type", "application/json");
        answer.headers().set("Content-Length", why.length);
        context.writeAndFlush(answer).addListener(ChannelFutureListener.CLOSE);
    }
}
